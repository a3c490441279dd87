"""What every observer promises, whoever wrote it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.quant.observers import OBSERVERS, check_range
from tests.slim.quant.observers.references import DISTRIBUTIONS, full, values

KINDS = [("int8", True), ("int4", True), ("uint8", True), ("int4", False)]
by_name = pytest.mark.parametrize("name", OBSERVERS)
orderless = pytest.mark.parametrize("name", [n for n in OBSERVERS if n != "moving_average"])

# Compiled once for all tests.
MADE = {name: make() for name, make in OBSERVERS.items()}
UPDATE = {name: jax.jit(observer.update) for name, observer in MADE.items()}
RANGE = {name: jax.jit(observer.range, static_argnums=(1, 2)) for name, observer in MADE.items()}


def observed(name, *batches):
    state = MADE[name].init()
    for batch in batches:
        state = UPDATE[name](state, jnp.asarray(batch))
    return state


def ranges(name, state):
    return [RANGE[name](state, *kind) for kind in KINDS]


def batches(count=4, size=2000):
    """Each wider than the one before."""
    rng = np.random.default_rng(1)
    return [((i + 1) ** 2 * rng.standard_t(4, size)).astype(np.float32) for i in range(count)]


def test_table():
    assert [observer.name for observer in MADE.values()] == list(OBSERVERS)


@by_name
def test_pure_under_jit_without_a_second_compilation(name):
    observer, (first, second, *_) = MADE[name], batches()
    # Functions of their own: `jit` shares the programs of one function among all its users.
    update = jax.jit(lambda state, x: observer.update(state, x))
    range_ = jax.jit(lambda state: observer.range(state, "int8", True))
    state = observer.init()
    for batch in (first, second):
        state = update(state, jnp.asarray(batch))
        range_(state)
    assert update._cache_size() == range_._cache_size() == 1

    state = update(observer.init(), jnp.asarray(first))
    outside = observer.update(observer.init(), jnp.asarray(first))
    chex.assert_trees_all_close(outside, state, rtol=1e-6)
    chex.assert_trees_all_close(observer.range(outside, "int8", True), range_(state), rtol=1e-6)


@by_name
def test_abstract_evaluation(name):
    observer = MADE[name]
    x = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)
    state = jax.eval_shape(observer.init)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(observer.update, state, x))
    low, high = jax.eval_shape(lambda s: observer.range(s, "int8", False), state)
    assert low.shape == high.shape == ()
    assert low.dtype == high.dtype == jnp.float32


@by_name
def test_stacked_states(name):
    observer, rows = MADE[name], batches(3)

    @jax.jit
    def observe(rows):
        states = jax.vmap(lambda row: observer.update(observer.init(), row))(rows)
        return states, jax.vmap(lambda state: observer.range(state, *KINDS[0]))(states)

    states, (lows, highs) = observe(jnp.asarray(np.stack(rows)))
    for i, row in enumerate(rows):
        state = observed(name, row)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], states), state)
        expected = RANGE[name](state, *KINDS[0])
        np.testing.assert_allclose((lows[i], highs[i]), expected, rtol=1e-6)


@by_name
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_ranges_contain_zero_and_lie_in_the_extremes(name, distribution):
    x = values(distribution)
    for kind, (low, high) in zip(KINDS, ranges(name, observed(name, x)), strict=True):
        format, symmetric = kind
        least, greatest = full(x, *kind)
        assert np.float32(least) <= low <= 0 <= high <= np.float32(greatest)
        if symmetric:
            assert low == (0 if format == "uint8" else -high)
        if distribution == "constant":  # nothing that could be clipped for a smaller step
            assert (low, high) == (np.float32(least), np.float32(greatest))


@orderless
def test_order_and_division_into_batches_do_not_matter(name):
    given = batches()
    once = observed(name, np.concatenate(given))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        chex.assert_trees_all_equal(observed(name, *(given[i] for i in order)), once)


@by_name
def test_shape_and_dtype_of_batches_do_not_matter(name):
    x = jnp.asarray(values("student_t")[:4096], jnp.bfloat16)
    expected = observed(name, x.astype(jnp.float32))
    chex.assert_trees_all_equal(observed(name, x), expected)
    chex.assert_trees_all_equal(observed(name, x.reshape(4, 32, 32)), expected)


@by_name
def test_sharded_batches(name):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = values("student_t")[:4096].reshape(64, 64)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model")))
    chex.assert_trees_all_equal(observed(name, sharded), observed(name, x))


@by_name
@pytest.mark.parametrize("power", [-60, 7, 60])
def test_ranges_scale_with_the_values(name, power):
    x = values("student_t")
    scaled = ranges(name, observed(name, np.ldexp(x, power)))
    for (low, high), plain in zip(scaled, ranges(name, observed(name, x)), strict=True):
        np.testing.assert_allclose((low, high), np.ldexp(plain, power), rtol=1e-6)


@by_name
@pytest.mark.parametrize(
    ("bad", "message"), [(np.nan, "given NaN"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
def test_what_is_not_finite_is_seen(name, bad, message):
    good = values("normal")[:4800].reshape(200, 24)  # so that XLA's maximum loses NaN on CPUs
    spoilt = [good.copy() for _ in range(3)]
    for x, place in zip(spoilt, ((0, 0), (77, 7), (199, 23)), strict=True):
        x[place] = bad
    for given in (spoilt[:1], [good, spoilt[1]], [spoilt[2], good]):
        for low, high in ranges(name, observed(name, *given)):
            with pytest.raises(ValueError, match=message):
                check_range(low, high, "encoder/dense")


@by_name
def test_no_data_is_seen(name):
    for low, high in ranges(name, MADE[name].init()):
        with pytest.raises(ValueError, match="'head' was never observed"):
            check_range(low, high, "head")
    low, high = RANGE[name](observed(name, values("normal")), "int8", True)
    check_range(low, high, "head")
    with pytest.raises(ValueError, match="'layers' was never observed"):
        check_range(jnp.stack([low, jnp.inf]), jnp.stack([high, -jnp.inf]), "layers")
