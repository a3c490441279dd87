"""Every exchange against the runs copied one by one; XLA's own by its documented meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from slim.moe.parallel.exchange import EXCHANGES, carry, exchange_for, exchange_named
from slim.moe.parallel.plan import Moves, plan

DEVICES, EXPERTS, ROWS, WIDTH = 4, 8, 12, 3
ROOM, MOST = 10, 4


def mesh():
    return jax.make_mesh(
        (DEVICES,), ("expert",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES]
    )


def as_documented(rows, output, take, send, put, receive, *, axis_name):
    """`jax.lax.ragged_all_to_all` as its documentation defines it, which no CPU runs."""
    me = jax.lax.axis_index(axis_name)
    gathered = [jax.lax.all_gather(a, axis_name) for a in (rows, take, send, put)]
    rows, take, send, put = gathered
    at = jnp.arange(output.shape[0])
    for s in range(DEVICES):
        here = (at >= put[s, me]) & (at < put[s, me] + receive[s])
        index = jnp.clip(take[s, me] + at - put[s, me], 0, rows.shape[1] - 1)
        got = jnp.where(receive[s] == send[s, me], rows[s][index], jnp.nan)
        output = jnp.where(here[:, None], got, output)
    return output


def one_by_one(rows, moves, into):
    """The runs copied one by one."""
    out = np.zeros((DEVICES, into, rows.shape[-1]), rows.dtype)
    for s in range(DEVICES):
        for r in range(DEVICES):
            take, size, put = (int(m[s, r]) for m in moves)
            out[r, put : put + size] = rows[s, take : take + size]
    return out


@pytest.fixture(scope="module", params=EXCHANGES)
def there_and_gradient(request):
    """The exchange and its vjp over the devices, compiled once."""

    def both(rows, counts, gradient):
        made = plan(counts, ROOM, MOST).moves
        exchange = EXCHANGES[request.param]
        out, vjp = jax.vjp(lambda rows: carry(exchange, rows, made, ROOM, MOST, "expert"), rows)
        return out, vjp(gradient)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "ragged_all_to_all", as_documented)
        spec = P("expert")
        sharded = jax.shard_map(
            both, mesh=mesh(), in_specs=(spec, P(), spec), out_specs=(spec, spec)
        )
        rows, gradient = (
            jax.ShapeDtypeStruct((DEVICES * n, WIDTH), jnp.float32) for n in (ROWS, ROOM)
        )
        counts = jax.ShapeDtypeStruct((DEVICES, EXPERTS), jnp.int32)
        return jax.jit(sharded).lower(rows, counts, gradient).compile()


COUNTS = arrays.arrays(np.int32, (DEVICES, EXPERTS), elements=st.integers(0, ROWS // EXPERTS + 3))


@settings(max_examples=20)
@given(counts=COUNTS, seed=st.integers(0, 99))
def test_rows_arrive_and_gradients_return(there_and_gradient, counts, seed):
    random = np.random.default_rng(seed)
    # A device has ROWS rows: later experts get what is left.
    counts = np.diff(np.minimum(np.cumsum(counts, 1), ROWS), axis=1, prepend=0).astype(np.int32)
    rows = random.normal(size=(DEVICES, ROWS, WIDTH)).astype(np.float32)
    gradient = random.normal(size=(DEVICES, ROOM, WIDTH)).astype(np.float32)
    out, back = there_and_gradient(
        rows.reshape(-1, WIDTH), jnp.asarray(counts), gradient.reshape(-1, WIDTH)
    )
    moves = Moves(*map(np.asarray, plan(jnp.asarray(counts), ROOM, MOST).moves))
    np.testing.assert_array_equal(out.reshape(DEVICES, ROOM, WIDTH), one_by_one(rows, moves, ROOM))
    expected = one_by_one(gradient, moves.back(), ROWS)
    np.testing.assert_array_equal(back.reshape(DEVICES, ROWS, WIDTH), expected)


def test_the_native_exchange_is_one_collective_each_way():
    """Lowered for a TPU, forward and backward, without JAX's extra exchange of offsets."""

    def both(rows, counts):
        made = plan(counts, ROOM, MOST).moves
        exchange = EXCHANGES["ragged_all_to_all"]
        out, vjp = jax.vjp(lambda rows: carry(exchange, rows, made, ROOM, MOST, "expert"), rows)
        return vjp(jnp.sin(out))[0]

    spec = P("expert")
    sharded = jax.shard_map(both, mesh=mesh(), in_specs=(spec, P()), out_specs=spec)
    rows = jax.ShapeDtypeStruct((DEVICES * ROWS, WIDTH), jnp.float32)
    counts = jax.ShapeDtypeStruct((DEVICES, EXPERTS), jnp.int32)
    text = jax.jit(sharded).trace(rows, counts).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@ragged_all_to_all") == 2
    assert "all_gather" not in text
    assert "stablehlo.all_to_all" not in text


@pytest.mark.parametrize(
    ("platform", "devices", "name"),
    [
        ("tpu", 2048, "ragged_all_to_all"),
        ("gpu", 32, "ragged_all_to_all"),
        ("gpu", 33, "all_to_all"),
        ("cpu", 8, "all_gather"),
    ],
)
def test_the_exchange_is_the_target_platforms(platform, devices, name):
    assert exchange_for(platform, devices) == name
    assert name in EXCHANGES


def test_an_unknown_exchange_is_refused():
    with pytest.raises(ValueError, match="exchange: unknown name 'allgather'; did you mean 'all_g"):
        exchange_named("allgather")
