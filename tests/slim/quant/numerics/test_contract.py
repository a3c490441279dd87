"""What every format, granularity and range of weights promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

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
every_case = pytest.mark.parametrize(
    ("format", "granularity", "symmetric"),
    [
        (format, granularity, symmetric)
        for format in FORMATS
        for granularity in GRANULARITIES
        for symmetric in (True, False)
        if symmetric or FORMATS[format].is_integer
    ],
)
every_range = pytest.mark.parametrize("name", WEIGHT_RANGES)


def weights(seed=0, dtype=jnp.float32, shape=SHAPE):
    rng = np.random.default_rng(seed)
    # Channels of unlike range, as in a network.
    return jnp.asarray(rng.normal(size=shape) * rng.uniform(0.1, 3, shape[-1]), dtype)


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


@pytest.mark.parametrize(("name", "fmt"), FORMATS.items())
def test_the_table_describes_its_formats(name, fmt):
    assert fmt.name == name
    assert fmt.high - fmt.low == 2**fmt.bits - 1 or not fmt.is_integer
    assert fmt.is_signed == (not name.startswith("uint"))
    for end in (fmt.low, fmt.high):
        assert float(jnp.asarray(end).astype(jnp.float32).astype(fmt.dtype)) == end


@every_case
def test_quantizing(format, granularity, symmetric):
    """Fake quantization is quantization and back, to the bit, inside `jit` and outside."""
    jitted = jax.jit(lambda w: quantize_all(w, format, granularity, symmetric))
    for seed in (0, 1):
        q, back, fake = quantize_all(weights(seed), format, granularity, symmetric)
        check(q)
        assert_same_bits(back, fake)
        assert_same_bits(jitted(weights(seed)), (q, back, fake))
    assert jitted._cache_size() == 1
    chex.assert_shape(back, SHAPE)
    assert (q.zero_point is None) == symmetric

    abstract = jax.eval_shape(jitted, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, (q, back, fake))
    check(abstract[0])


@pytest.mark.parametrize("format", FORMATS)
def test_half_precision_is_quantized_in_single(format):
    half = weights(dtype=jnp.bfloat16)
    _, back, fake = quantize_all(half, format, "channel", symmetric=True)
    _, single, _ = quantize_all(half.astype(jnp.float32), format, "channel", symmetric=True)
    assert_same_bits(back, fake)
    assert_same_bits(back, single.astype(jnp.bfloat16))


@pytest.mark.parametrize("format", FORMATS)
def test_stacked_weights_are_quantized_each_alone(format):
    stack = jnp.stack([weights(0), weights(1)])
    symmetric = not FORMATS[format].is_integer
    q, *_ = jax.jit(jax.vmap(lambda w: quantize_all(w, format, 8, symmetric)))(stack)
    check(q)
    for i in (0, 1):
        alone, *_ = quantize_all(stack[i], format, 8, symmetric)
        assert_same_bits(jax.tree.map(lambda leaf, i=i: leaf[i], q), alone)


@pytest.mark.parametrize("format", ["int4", "uint8", "float8_e4m3"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_shardings_are_kept(format, granularity):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    symmetric = not FORMATS[format].is_integer

    def both(w):
        q, _, fake = quantize_all(w, format, granularity, symmetric)
        return q, fake

    q, fake = jax.jit(both)(jax.device_put(weights(), sharding))
    assert_same_bits((q, fake), jax.jit(both)(weights()))
    for array in (q.values, fake):
        assert array.sharding.is_equivalent_to(sharding, 2), array.sharding


@every_range
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_of_weights(name, granularity, symmetric):
    shape = scale_shape(SHAPE, (0,), granularity)

    def find(w):
        return WEIGHT_RANGES[name](w, shape, "int4", symmetric)

    jitted = jax.jit(find)
    for seed in (0, 1):
        w = weights(seed)
        low, high = found = find(w)
        chex.assert_trees_all_close(jitted(w), found, rtol=1e-5)
        chex.assert_shape(found, shape)
        chex.assert_type(found, jnp.float32)
        assert (low <= high).all()
        reach = jnp.abs(w).max()
        assert max(jnp.abs(low).max(), high.max()) <= reach
    assert jitted._cache_size() == 1
    abstract = jax.eval_shape(find, jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, found)


@every_range
@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_of_channels_move_with_them(name, symmetric):
    w = weights()
    order = np.random.default_rng(9).permutation(SHAPE[-1])
    q, *_ = quantize_all(w, "int4", "channel", symmetric, name)
    moved, *_ = quantize_all(w[:, order], "int4", "channel", symmetric, name)
    assert_same_bits(moved, jax.tree.map(lambda leaf: leaf[:, order], q))


@every_range
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(name, symmetric):
    w = weights().at[:, 3].set(0.0)
    q, back, _ = quantize_all(w, "int4", "channel", symmetric, name)
    check(q)
    assert q.scale[0, 3] == 1
    assert (back[:, 3] == 0).all()
