"""What devices send each other: every kind, its bytes, groups and times."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from slim.measure import hlo
from slim.measure.collectives import Collective, collectives, first_group
from slim.measure.roofline import GENERATIONS, roofline

# As TPUs' compiler writes a reduce-scatter, and two gathers as sums of all: of shards of 14 rows,
# and, fused, of 16; and a gather that stands where it starts and where it ends.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=8

%all-reduce-scatter.1 (a: f32[64,128]) -> f32[8,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i.0 = u32[]{:T(128)} constant(0)
  %all-reduce.1 = f32[64,128]{1,0:T(8,128)} all-reduce(%a), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %part = f32[8,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %i.0, %i.0), dynamic_slice_sizes={8,128}
}

%place (b: bf16[128,256], c: bf16[16,256]) -> bf16[128,256] {
  %b = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(0)
  %c = bf16[16,256]{1,0:T(8,128)(2,1)} parameter(1)
  %i.1 = u32[]{:T(128)} constant(0)
  ROOT %d = bf16[128,256]{1,0:T(8,128)(2,1)} dynamic-update-slice(%b, %c, %i.1, %i.1)
}

%add (e: f32[], f: f32[]) -> f32[] {
  %e = f32[] parameter(0)
  %f = f32[] parameter(1)
  ROOT %g = f32[] add(%e, %f)
}

%start (h: f32[64,128]) -> (f32[64,128], f32[512,128]) {
  %h = f32[64,128]{1,0:T(8,128)} parameter(0)
  %all-gather.4 = f32[512,128]{1,0:T(8,128)} all-gather(%h), channel_id=4, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %call.0 = (f32[64,128]{1,0:T(8,128)}, f32[512,128]{1,0:T(8,128)}) custom-call(%all-gather.4), custom_call_target="AsyncCollectiveStart"
}

%done (j: f32[64,128], k: (f32[64,128], f32[512,128])) -> f32[512,128] {
  %j = f32[64,128]{1,0:T(8,128)} parameter(0)
  %k = (f32[64,128]{1,0:T(8,128)}, f32[512,128]{1,0:T(8,128)}) parameter(1)
  %all-gather.5 = f32[512,128]{1,0:T(8,128)} all-gather(%j), channel_id=4, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %call.1 = f32[512,128]{1,0:T(8,128)} custom-call(%k, %all-gather.5), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[64,128], y: bf16[14,256], z: bf16[16,256]) -> f32[8,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %y = bf16[14,256]{1,0:T(8,128)(2,1)} parameter(1)
  %z = bf16[16,256]{1,0:T(8,128)(2,1)} parameter(2)
  %nil = bf16[] constant(0)
  %i = u32[]{:T(128)} constant(0)
  %zeros = bf16[112,256]{1,0:T(8,128)(2,1)} broadcast(%nil), dimensions={}
  %placed = bf16[112,256]{1,0:T(8,128)(2,1)} dynamic-update-slice(%zeros, %y, %i, %i)
  %all-reduce.2 = bf16[112,256]{1,0:T(8,128)(2,1)} all-reduce(%placed), channel_id=2, replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%add, metadata={op_name="layer/dot"}
  %zeros.1 = bf16[128,256]{1,0:T(8,128)(2,1)} broadcast(%nil), dimensions={}
  %fusion = bf16[128,256]{1,0:T(8,128)(2,1)} fusion(%zeros.1, %z), kind=kLoop, calls=%place
  %all-reduce.3 = bf16[128,256]{1,0:T(8,128)(2,1)} all-reduce(%fusion), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add
  %begin = (f32[64,128]{1,0:T(8,128)}, f32[512,128]{1,0:T(8,128)}) fusion(%x), kind=kCustom, calls=%start
  %end = f32[512,128]{1,0:T(8,128)} fusion(%x, %begin), kind=kCustom, calls=%done
  ROOT %out = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501

EIGHT = tuple(range(8))


def test_what_tpus_write_as_sums_is_told_apart():
    assert collectives(hlo.parse(TPU)) == (
        Collective("all-reduce.1", "reduce-scatter", 64 * 128 * 4, (0, 1, 2, 3), 1),
        Collective("all-gather.4", "all-gather", 8 * 64 * 128 * 4, EIGHT, 1),
        Collective(
            "all-reduce.2",
            "all-reduce",
            112 * 256 * 2,
            EIGHT,
            1,
            "layer/dot",
            True,
            misaligned=True,
        ),
        Collective("all-reduce.3", "all-reduce", 128 * 256 * 2, EIGHT, 1, "", gathers=True),
    )


def test_every_kind_counts_as_often_as_its_loop_runs():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def exchange(x: jax.Array) -> jax.Array:
        def step(x, _):
            x = jax.lax.all_gather(x, "b", tiled=True)
            x = jax.lax.psum_scatter(jnp.sin(x), "b", tiled=True)
            x = jax.lax.all_to_all(jnp.sin(x), "b", 0, 0, tiled=True)
            x = jax.lax.ppermute(jnp.sin(x), "b", [(0, 1), (1, 2), (2, 3), (3, 0)])
            return x + jax.lax.psum(jnp.sin(x), "a"), None

        return jax.lax.scan(step, x, None, length=3)[0]

    f = jax.shard_map(exchange, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(("a", "b")),
                      check_vma=False)  # fmt: skip
    text = jax.jit(f).lower(jnp.ones((8 * 4, 16))).compile().as_text()
    found = {c.kind: c for c in collectives(hlo.parse(text))}
    part = 4 * 16 * 4  # bytes
    assert {kind: c.bytes for kind, c in found.items()} == {
        "all-gather": 4 * part,
        "reduce-scatter": 4 * part,
        "all-to-all": part,
        "collective-permute": part,
        "all-reduce": part,
    }
    assert {c.times for c in found.values()} == {3}
    assert found["all-gather"].group == found["all-to-all"].group == (0, 1, 2, 3)
    assert found["all-reduce"].group == (0, 4)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-gather", 600), ("all-reduce", 1200), ("collective-permute", 800), ("all-to-all", 600)],
)
def test_what_rings_send(kind, sent):
    assert Collective("a", kind, 800, (0, 1, 2, 3), 1).sent == sent


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={}", EIGHT),
        ("replica_groups={{3,1},{0,2}}, x=1", (3, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x=1", (0, 4)),
        ("replica_groups=mesh['p'=4,'q'=1,'r'=2], device_ids=([2,4]T(1,0)) {'p'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['p'=4,'q'=1,'r'=2], device_ids=([2,4]T(1,0)) {'r'}", (0, 4)),
        ("replica_groups=mesh['p'=8] {'p':(2)4}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['p'=8] {'p':(1)4}, x=1", (0, 2, 4, 6)),
        ("channel_id=1, source_target_pairs={{1,2},{2,1}}, x=1", (1, 2)),
    ],
)
def test_groups_in_all_their_forms(text, group):
    assert first_group(text, 8) == group


def test_groups_in_another_form_are_refused():
    with pytest.raises(ValueError, match="unknown way: 'something'"):
        first_group("replica_groups=something", 8)


def test_the_roofline_is_of_the_slowest_part():
    places = [(x, y, 0) for x in range(2) for y in range(4)]
    row = Collective("a", "all-gather", 4_000_000, (0, 1, 2, 3), 10)  # one axis: two ports
    plane = Collective("b", "all-reduce", 8_000_000, EIGHT, 1)  # two axes: four
    least = roofline(
        GENERATIONS["v5e"], flops=197e9, traffic=819e6, exchanged=[row, plane], places=places
    )
    assert least.compute == pytest.approx(1e-3)
    assert least.memory == pytest.approx(1e-3)
    assert least.interconnect == pytest.approx(10 * 3e6 / 100e9 + 14e6 / 200e9)
    assert least.step == least.compute
    assert least.apart == pytest.approx(2e-3 + least.interconnect)


def test_several_scattered_or_gathered_at_once():
    """Sums of two, of which a device keeps parts; and two, one of which is a gather."""
    text = TPU.replace(
        "ROOT %part = f32[8,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %i.0, %i.0), "
        "dynamic_slice_sizes={8,128}",
        "%part = f32[8,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %i.0, %i.0), "
        "dynamic_slice_sizes={8,128}\n"
        "  ROOT %parts = (f32[8,128]{1,0:T(8,128)}) tuple(%part)",
    ).replace("all-reduce(%placed)", "all-reduce(%zeros.1, %placed)")
    first, _, second, _ = collectives(hlo.parse(text))
    assert first.kind == "reduce-scatter"
    assert second.gathers
    assert second.misaligned
