"""Programs as XLA writes them are read: how often each part runs, and what it moves."""

import jax
import jax.numpy as jnp
import pytest

from slim.measure import hlo
from slim.measure.traffic import traffic

# A loop as TPUs' compiler writes it: from 1 to a constant that is passed in, by 2.
LOOP = """HloModule jit_f, is_scheduled=true, num_partitions=4

%body (p.0: (s32[], f32[3,8], s32[])) -> (s32[], f32[3,8], s32[]) {
  %two = s32[]{:T(128)} constant(2)
  %p.0 = (s32[]{:T(128)}, f32[3,8]{1,0:T(8,128)}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i.0 = s32[]{:T(128)} get-tuple-element(%p.0), index=0
  %copy.0 = s32[]{:T(128)S(6)} copy(%i.0)
  %x.0 = f32[3,8]{1,0:T(8,128)} get-tuple-element(%p.0), index=1
  %n.0 = s32[]{:T(128)} get-tuple-element(%p.0), index=2
  %y.0 = f32[3,8]{1,0:T(8,128)} negate(%x.0)
  %next = s32[]{:T(128)} add(%copy.0, %two)
  ROOT %t.0 = (s32[]{:T(128)}, f32[3,8]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%next, %y.0, %n.0)
}

%condition (p.1: (s32[], f32[3,8], s32[])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[3,8]{1,0:T(8,128)}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=2
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT
}

ENTRY %main (x.2: f32[3,8]) -> f32[3,8] {
  %one = s32[]{:T(128)} constant(1)
  %limit = s32[]{:T(128)} constant(8)
  %x.2 = f32[3,8]{1,0:T(8,128)} parameter(0)
  %begin = s32[]{:T(128)} copy(%one)
  %t.2 = (s32[]{:T(128)}, f32[3,8]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%begin, %x.2, %limit)
  %loop = (s32[]{:T(128)}, f32[3,8]{1,0:T(8,128)}, s32[]{:T(128)}) while(%t.2), condition=%condition, body=%body
  ROOT %out = f32[3,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501

# Of 10 layers in main memory one is sliced, and one of 10 results replaced; a third value stays in
# the core's own memory.
FUSION = """HloModule jit_g

%fused (a: f32[10,4], b: f32[10,4], i: s32[]) -> f32[10,4] {
  %a = f32[10,4]{1,0:T(8,128)} parameter(0)
  %b = f32[10,4]{1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %part = f32[1,4]{1,0:T(8,128)} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,4}
  ROOT %all = f32[10,4]{1,0:T(8,128)} dynamic-update-slice(%b, %part, %i, %zero)
}

ENTRY %main (a.1: f32[10,4], b.1: f32[10,4], i.1: s32[]) -> f32[10,4] {
  %a.1 = f32[10,4]{1,0:T(8,128)} parameter(0)
  %b.1 = f32[10,4]{1,0:T(8,128)} parameter(1)
  %i.1 = s32[]{:T(128)S(6)} parameter(2)
  %c.1 = f32[10,4]{1,0:T(8,128)S(1)} copy(%b.1)
  %d.1 = f32[10,4]{1,0:T(8,128)S(1)} negate(%c.1)
  ROOT %f = f32[10,4]{1,0:T(8,128)} fusion(%a.1, %b.1, %i.1), kind=kLoop, calls=%fused
}
"""


def test_a_loop_runs_as_often_as_its_constants_say():
    program = hlo.parse(LOOP)
    assert program.times == {"main": 1, "body": 4, "condition": 4}  # 1, 3, 5, 7
    assert program.unknown_trips == ()
    assert program.devices == 4
    counting = 8 + 4 * (4 + 8) + 4 * (8 + 1)  # the copies, sums and comparisons of its counter
    assert traffic(program) == 4 * 2 * 96 + counting


def test_slices_and_updates_in_place_cost_what_they_take():
    program = hlo.parse(FUSION)
    assert traffic(program) == 160 + 16 + 16  # copied to the core; sliced; replaced
    assert program.times["fused"] == 1


@pytest.mark.parametrize(("outer", "inner"), [(3, 5), (1, 2)])
def test_bodies_of_scans_in_scans_multiply(outer, inner):
    def f(x: jax.Array) -> jax.Array:
        def step(x, _):
            y, _ = jax.lax.scan(lambda x, _: (jnp.sort(x), None), x, None, length=inner)
            return jnp.cos(y), None

        return jax.lax.scan(step, x, None, length=outer)[0]

    program = hlo.parse(jax.jit(f).lower(jnp.ones(7)).compile().as_text())
    assert program.unknown_trips == ()
    runs = {
        i.opcode: program.times[name]
        for name, found in program.computations.items()
        for i in found.values()
        if i.opcode in ("sort", "cosine")
    }
    assert runs == {"sort": outer * inner, "cosine": outer}


def test_a_loop_that_data_ends_is_said_to_be_unknown():
    def f(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, x)

    program = hlo.parse(jax.jit(f).lower(jnp.ones(7)).compile().as_text())
    assert len(program.unknown_trips) == 1
    assert set(program.times.values()) == {1}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("module @jit_f {}")
