"""What every range, format and granularity of weights promises, and every rounding to train by."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.quant import TRAINED, Scale
from slim.quant.numerics import (
    FORMATS,
    WEIGHT_RANGES,
    check,
    choose_scale,
    dequantize,
    fake_quantize,
    quantize,
    scale_shape,
)

SHAPE = (64, 32)
GRANULARITIES = ("tensor", "channel", 8)
SCALED = [name for name, fmt in FORMATS.items() if not fmt.is_cast]
INTEGERS = [name for name in SCALED if FORMATS[name].is_integer]
CASES = [
    *((r, f, g, True) for r, f, g in itertools.product(WEIGHT_RANGES, SCALED, GRANULARITIES)),
    *((r, f, "channel", False) for r, f in itertools.product(WEIGHT_RANGES, INTEGERS)),
    # No range moves the scale of a cast.
    *(("minmax", f, "channel", True) for f in FORMATS if FORMATS[f].is_cast),
]
MESH = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SHARDING = NamedSharding(MESH, PartitionSpec("fsdp", "tensor"))

every_format = pytest.mark.parametrize("format", FORMATS)
every_range = pytest.mark.parametrize("name", WEIGHT_RANGES)
every_rounding = pytest.mark.parametrize("method", TRAINED)


def weights(seed=0, dtype=jnp.float32, shape=SHAPE):
    """Channels of unlike range, as in a network; one of zeros."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape) * rng.uniform(0.1, 3, shape[-1])
    w[..., 3] = 0
    return jnp.asarray(w, dtype)


def quantize_all(w, format, granularity, symmetric, name="minmax"):
    shape = scale_shape(w.shape, (0,), granularity)
    scale, zero_point = choose_scale(
        *WEIGHT_RANGES[name](w, shape, format, symmetric), format, symmetric
    )
    q = quantize(w, scale, zero_point, format)
    return q, dequantize(q, w.dtype), fake_quantize(w, scale, zero_point, format)


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        chex.assert_equal(one.dtype, other.dtype)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("table", [FORMATS, WEIGHT_RANGES, TRAINED])
def test_tables_hold_distinct_methods(table):
    assert len({id(method) for method in table.values()}) == len(table) > 0


@pytest.mark.parametrize(("name", "fmt"), FORMATS.items())
def test_the_table_describes_its_formats(name, fmt):
    assert fmt.name == name
    assert fmt.high - fmt.low == 2**fmt.bits - 1 or not fmt.is_integer
    assert fmt.is_signed == (not name.startswith("uint"))
    for end in (fmt.low, fmt.high):
        held = jnp.float32(end).astype(fmt.dtype)
        assert int(float(held)) == end
        assert jnp.isfinite(held.astype(jnp.float32))


@pytest.mark.parametrize(("name", "format", "granularity", "symmetric"), CASES)
def test_quantizers(name, format, granularity, symmetric):
    """All that holds of one is seen with one program."""

    def there_and_back(w):
        q, back, fake = quantize_all(w, format, granularity, symmetric, name)
        return q, back, fake, quantize(dequantize(q), q.scale, q.zero_point, format)

    jitted = jax.jit(there_and_back)
    w = weights()
    q, back, fake, again = result = jitted(w)
    check(q)
    chex.assert_shape((q.values, back), SHAPE)
    assert (q.zero_point is None) == symmetric
    assert_same_bits(back, fake)
    assert_same_bits(again, q)
    assert (back[:, 3] == 0).all()
    abstract = jax.eval_shape(jitted, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, result)

    channels = np.random.default_rng(9).permutation(SHAPE[1])
    powers = np.arange(SHAPE[1]) % 7 - 3
    if granularity == "tensor":
        powers = np.full_like(powers, 3)
    else:
        of_channels = jax.tree.map(lambda leaf: leaf[:, channels % leaf.shape[1]], q)
        assert_same_bits(jitted(w[:, channels])[0], of_channels)
    larger, *_ = jitted(jnp.ldexp(w, powers))
    assert_same_bits(dequantize(larger), jnp.ldexp(back, powers))
    if format in SCALED:
        assert_same_bits(larger.values, q.values)
    assert jitted._cache_size() == 1


@pytest.mark.parametrize(
    ("format", "symmetric"), [*((f, True) for f in FORMATS), ("int4", False), ("uint8", False)]
)
def test_the_same_bits_outside_of_jit(format, symmetric):
    jitted = jax.jit(lambda w: quantize_all(w, format, 8, symmetric))
    for seed in (0, 1):
        w = weights(seed)
        assert_same_bits(quantize_all(w, format, 8, symmetric), jitted(w))


@every_format
def test_half_precision_is_quantized_in_single(format):
    half = weights(dtype=jnp.bfloat16)
    _, back, fake = quantize_all(half, format, "channel", symmetric=True)
    _, single, _ = quantize_all(half.astype(jnp.float32), format, "channel", symmetric=True)
    assert_same_bits(back, fake)
    assert_same_bits(back, single.astype(jnp.bfloat16))


@pytest.mark.parametrize("format", ["int4", "uint8", "float8_e4m3", "bfloat16"])
def test_stacked_weights_are_quantized_each_alone(format):
    stack = jnp.stack([weights(0), weights(1)])
    symmetric = format not in INTEGERS
    q, *_ = jax.jit(jax.vmap(lambda w: quantize_all(w, format, 8, symmetric)))(stack)
    check(q)
    for i in (0, 1):
        alone, *_ = quantize_all(stack[i], format, 8, symmetric)
        assert_same_bits(jax.tree.map(lambda leaf, i=i: leaf[i], q), alone)


@pytest.mark.parametrize(
    ("format", "granularity"),
    [*((f, "channel") for f in FORMATS), ("uint8", "tensor"), ("int4", 8)],
)
def test_shardings_are_kept(format, granularity):
    symmetric = format not in INTEGERS

    @jax.jit
    def both(w):
        q, _, fake = quantize_all(w, format, granularity, symmetric)
        return q, fake

    q, fake = both(jax.device_put(weights(), SHARDING))
    assert_same_bits((q, fake), both(weights()))
    for array in (q.values, fake):
        assert array.sharding.is_equivalent_to(SHARDING, 2), array.sharding


@every_range
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_of_weights(name, granularity, symmetric):
    whole = (200, 24)  # so that XLA's maximum loses NaN on CPUs
    shape = scale_shape(whole, (0,), granularity)

    def find(w):
        return WEIGHT_RANGES[name](w, shape, "int4", symmetric)

    jitted = jax.jit(find)
    for seed in (0, 1):
        w = weights(seed, shape=whole)
        low, high = found = find(w)
        chex.assert_trees_all_close(jitted(w), found, rtol=1e-5)
        chex.assert_shape(found, shape)
        chex.assert_type(found, jnp.float32)
        assert (low <= high).all()
        reach = jnp.abs(w).max()
        assert max(jnp.abs(low).max(), high.max()) <= reach
    for place, bad in (((0, 0), np.nan), ((117, 5), np.inf), ((199, 23), -np.inf)):
        low, high = jitted(weights(shape=whole).at[place].set(bad))
        finite = np.isfinite(low) & np.isfinite(high)
        block = tuple(i * m // n for i, m, n in zip(place, shape, whole, strict=True))
        assert np.argwhere(~finite).tolist() == [list(block)]
    assert jitted._cache_size() == 1
    abstract = jax.eval_shape(find, jax.ShapeDtypeStruct(whole, jnp.bfloat16))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, found)


# In units of what the format reaches: far inside, where it ends, and beyond.
PLACES = np.array([0.1, -0.26, 0.6, 0.9, 1.8, -2.8])
COTANGENT = np.arange(1.0, 7.0)
REACH = 2.25
# Numbers at most half the last step past the ends count as inside.
LAST_STEP = {"float8_e4m3": 32, "float8_e5m2": 8192}
REGIONS = {(True, 1.0), (True, -1.0), (False, 1.0)}  # (whether clipped, sign)


def trained(method, format):
    """(x, scale) -> the sum of rounded numbers times the cotangent, and its gradients."""

    def loss(x, scale):
        rounded = TRAINED[method](x, Scale(scale, None), format)
        return (rounded * jnp.asarray(COTANGENT, x.dtype)).sum(), rounded

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@every_rounding
@pytest.mark.parametrize("format", SCALED)
def test_roundings_have_one_result_and_gradients_of_their_own(method, format):
    fmt, fn = FORMATS[format], trained(method, format)
    scale = jnp.array([REACH / fmt.high], jnp.float32)
    for reach in (REACH, 0.9 * REACH):
        x = jnp.asarray(reach * PLACES, jnp.float32)
        (_, rounded), (to_x, to_scale) = fn(x, scale)
        assert_same_bits(rounded, jax.jit(lambda x: fake_quantize(x, scale, None, format))(x))
        n = np.asarray(x, np.float64) / float(scale[0])
        half = LAST_STEP.get(format, 1) / 2
        clipped = (n > fmt.high + half) | (n < fmt.low - half)
        assert {(c, s) for c, s in zip(clipped, np.sign(n), strict=True)} >= REGIONS
        np.testing.assert_array_equal(to_x, np.where(clipped, 0, COTANGENT))
        steps = np.asarray(rounded) / float(scale[0])
        ends, inside = (
            (COTANGENT * each).sum() for each in (steps * clipped, (steps - n) * ~clipped)
        )
        factor = 1 / math.sqrt(x.size * fmt.high)
        expected = {"fixed": 0.0, "lsq": factor * (ends + inside), "pact": ends}[method]
        np.testing.assert_allclose(to_scale, [expected], rtol=1e-4, atol=1e-5 * fmt.high * factor)
    assert fn._cache_size() == 1

    like = (jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct((1,), jnp.float32))
    abstract = jax.eval_shape(fn, *like)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, fn(x, scale))


@every_rounding
@pytest.mark.parametrize("format", ["int4", "uint8", "float8_e4m3"])
def test_roundings_of_half_precision_are_computed_in_single(method, format):
    fn, scale = trained(method, format), jnp.array([REACH / FORMATS[format].high], jnp.float32)
    half = jnp.asarray(REACH * PLACES, jnp.bfloat16)
    (_, rounded), (to_x, to_scale) = fn(half, scale)
    (_, single), (single_to_x, single_to_scale) = fn(half.astype(jnp.float32), scale)
    assert_same_bits(rounded, single.astype(jnp.bfloat16))
    assert_same_bits(to_x, single_to_x.astype(jnp.bfloat16))
    assert to_scale.dtype == jnp.float32
    np.testing.assert_allclose(to_scale, single_to_scale, rtol=1e-5)


@every_rounding
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_roundings_keep_shardings(method, granularity):
    w = weights()
    shape = scale_shape(SHAPE, (0,), granularity)
    scale = jnp.full(shape, jnp.abs(w).max() / 14)

    @jax.jit
    def run(w, scale):
        def loss(w, scale):
            rounded = TRAINED[method](w, Scale(scale, None), "int4")
            return jnp.square(rounded).sum(), rounded

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(w, scale)

    (_, rounded), (to_w, to_scale) = run(jax.device_put(w, SHARDING), scale)
    (_, whole), (whole_to_w, whole_to_scale) = run(w, scale)
    for array, expected in ((rounded, whole), (to_w, whole_to_w)):
        assert array.sharding.is_equivalent_to(SHARDING, 2), array.sharding
        assert_same_bits(array, expected)
    np.testing.assert_allclose(to_scale, whole_to_scale, rtol=1e-5, atol=1e-5)
