"""GPTQ against its paper: first the exact algorithm in NumPy, then what it is for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.gptq_core import gptq
from slim.quant.hessian import input_hessian, output_error
from slim.quant.numerics import (
    FORMATS,
    WEIGHT_RANGES,
    check,
    choose_scale,
    dequantize,
    quantize,
    scale_shape,
)
from tests.slim.quant.correlated import correlated

# (format, granularity, symmetric)
KINDS = [
    ("int4", "channel", True),
    ("int4", "tensor", False),
    ("int3", 8, True),
    ("uint4", 6, False),
    ("int8", "channel", True),
    ("float8_e4m3", "channel", True),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def scales(w, kind):
    format, granularity, symmetric = kind
    shape = scale_shape(w.shape, (0,), granularity)
    low, high = WEIGHT_RANGES["minmax"](w, shape, format, symmetric)
    return *choose_scale(low, high, format, symmetric), format


def paper(w, hessian, scale, zero_point, format, damping=0.01, by_activation=False):
    """One row at a time in double precision, the inverse Hessian downdated after each.

    Equation 3 of the paper (OBQ's elimination in a given order) and no Cholesky factor.
    """
    fmt = FORMATS[format]
    w, hessian = np.array(w, np.float64), np.array(hessian, np.float64)
    spread = [np.repeat(np.asarray(scale, np.float64), len(w) // scale.shape[0], axis=0)]
    if zero_point is not None:
        spread.append(np.repeat(np.asarray(zero_point), len(w) // scale.shape[0], axis=0))
    damped = hessian + damping * np.diag(hessian).mean() * np.eye(len(w))
    inverse = np.linalg.inv(damped)
    order = np.argsort(-np.diag(hessian), kind="stable") if by_activation else np.arange(len(w))
    values = np.zeros(w.shape)
    for i in order:
        step, zero = spread[0][i], spread[1][i] if len(spread) > 1 else 0
        ratio = w[i] / step
        if fmt.is_integer:
            values[i] = np.clip(np.rint(ratio) + zero, fmt.low, fmt.high)
        else:
            values[i] = np.clip(ratio, fmt.low, fmt.high).astype(fmt.dtype).astype(np.float64)
        error = w[i] - (values[i] - zero) * step
        w -= np.outer(inverse[:, i] / inverse[i, i], error)
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
        inverse[i, i] = np.inf  # done: its row and column stay zero
        inverse[i, :i] = inverse[i, i + 1 :] = inverse[:i, i] = inverse[i + 1 :, i] = 0
    return values


@every_kind
@pytest.mark.parametrize("by_activation", [False, True])
def test_gptq_is_the_papers(kind, by_activation):
    w, x = correlated(0)
    given = scales(w, kind)
    q = gptq(w, input_hessian(x), *given, by_activation=by_activation, block=10)
    check(q)
    expected = paper(w, input_hessian(x), *given, by_activation=by_activation)
    np.testing.assert_array_equal(np.asarray(q.values, np.float64), expected)


@every_kind
@pytest.mark.parametrize("by_activation", [False, True])
def test_gptq_changes_outputs_less_than_rounding(kind, by_activation):
    for seed in range(8):
        w, x = correlated(seed)
        hessian = input_hessian(x)
        given = scales(w, kind)
        found = dequantize(gptq(w, hessian, *given, by_activation=by_activation))
        rounded = dequantize(quantize(w, *given))
        assert output_error(found - w, hessian) < output_error(rounded - w, hessian)


@every_kind
@pytest.mark.parametrize("by_activation", [False, True])
def test_uncorrelated_inputs_make_it_rounding_to_nearest(kind, by_activation):
    w, x = correlated(0)
    hessian = jnp.diag(jnp.diagonal(input_hessian(x)).at[3].set(0.0))
    given = scales(w, kind)
    found = gptq(w, hessian, *given, by_activation=by_activation, block=10)
    np.testing.assert_array_equal(found.values, quantize(w, *given).values)


def test_no_inputs_at_all_make_it_rounding_to_nearest():
    w, _ = correlated(0)
    given = scales(w, KINDS[0])
    found = gptq(w, jnp.zeros((24, 24)), *given)
    np.testing.assert_array_equal(found.values, quantize(w, *given).values)


def test_blocks_are_a_matter_of_speed():
    w, x = correlated(1)
    given = scales(w, KINDS[0])
    found = [gptq(w, input_hessian(x), *given, block=block).values for block in (1, 7, 24, 128)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_gptq_is_pure_under_jit_and_compiles_once():
    jitted = jax.jit(lambda w, h, s: gptq(w, h, s, None, "int4", by_activation=True))
    for seed in (0, 1):
        w, x = correlated(seed)
        hessian = input_hessian(x)
        scale, _, _ = scales(w, KINDS[0])
        q = jitted(w, hessian, scale)
        eager = gptq(w, hessian, scale, None, "int4", by_activation=True)
        np.testing.assert_array_equal(q.values, eager.values)
    assert jitted._cache_size() == 1
    abstract = jax.eval_shape(jitted, w, hessian, scale)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, q)


def test_bad_hessians_are_refused():
    w, x = correlated(0)
    given = scales(w, KINDS[0])
    hessian = input_hessian(x)
    with pytest.raises(ValueError, match=r"hessian of shape \(8, 8\) for weights of shape \(24,"):
        gptq(w, hessian[:8, :8], *given)
    with pytest.raises(ValueError, match=r"not finite at 1 of 576 places"):
        gptq(w, hessian.at[2, 3].set(jnp.inf), *given)
    with pytest.raises(ValueError, match=r"not positive definite with damping 0.01: raise it"):
        gptq(w, hessian - 5 * jnp.eye(24) * jnp.trace(hessian) / 24, *given)
    with pytest.raises(ValueError, match=r"scale of shape \(5, 8\)"):
        gptq(w, hessian, jnp.ones((5, 8)), None, "int4")
