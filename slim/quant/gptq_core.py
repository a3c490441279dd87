"""GPTQ on one weight: round row by row, and let the rows to come make up for each error.

Frantar et al. 2022, arXiv:2210.17323.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.quant.hessian import check_hessian
from slim.quant.numerics import QTensor, find_format
from slim.quant.numerics.qtensor import check_scale, from_grid, to_grid


def gptq(
    w: jax.Array,
    hessian: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    format: str,
    *,
    damping: float = 0.01,
    by_activation: bool = False,
    block: int = 128,
) -> QTensor:
    """The weight on the format's grid whose outputs change little, for given scales.

    With U upper triangular and U^T U = (H + damping mean(diag H) I)^-1, for each row i in turn

        q_i = quantize(w_i),  e = (w_i - q_i) / U_ii,  w_j -= U_ij e for all j > i.

    With a diagonal H that is rounding to nearest. Rows after the current block of rows are updated
    once per block, by one matrix product.

    Args:
        w: (in, out), any float dtype; computed in float32.
        hessian: E x x^T of the inputs, float32 (in, in); see `input_hessian`.
        scale: float32, of a shape as in `QTensor`: per tensor, per channel or per group of inputs.
        zero_point: int32 of the scale's shape, or None.
        format: its name in `FORMATS`.
        damping: added to the diagonal, as a share of its mean.
        by_activation: take rows by falling H_ii and not in order ("act-order").
        block: how many rows are updated at once; a matter of speed, not of the result.

    Raises:
        ValueError: shapes that do not fit; outside `jit`, a hessian that is not finite, or not
            positive definite once damped.
    """
    check_hessian(hessian, w)
    check_scale(w.shape, scale, zero_point, find_format(format))
    order = jnp.arange(w.shape[0])
    if by_activation:
        order = jnp.argsort(-jnp.diagonal(hessian))
    factor = _inverse_factor(hessian[order][:, order], damping)
    if not isinstance(factor, jax.core.Tracer) and not jnp.isfinite(factor).all():
        raise ValueError(
            f"hessian is not positive definite with damping {damping}: raise it, 0.1 say, or "
            "measure on more inputs"
        )
    values = _round_rows(w, factor, order, scale, zero_point, format, min(block, w.shape[0]))
    return QTensor(values, scale, zero_point, format)


@jax.jit
def _inverse_factor(hessian: jax.Array, damping: float) -> jax.Array:
    """Upper triangular U with U^T U the inverse of the damped Hessian."""
    mean = jnp.trace(hessian) / hessian.shape[0]
    mean = jnp.where(mean > 0, mean, 1.0)  # of inputs that were all zero
    damped = hessian + damping * mean * jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    # From the last row to the first, Cholesky gives damped = M M^T with M upper triangular, and
    # U = M^-1: one triangular solve, and the inverse is never formed.
    lower = jnp.linalg.cholesky(damped[::-1, ::-1])
    identity = jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    return jax.scipy.linalg.solve_triangular(lower, identity, lower=True)[::-1, ::-1]


@partial(jax.jit, static_argnames=("format", "block"))
def _round_rows(
    w: jax.Array,
    factor: jax.Array,
    order: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    format: str,
    block: int,
) -> jax.Array:
    fmt = find_format(format)
    inputs, outputs = w.shape
    group = order // (inputs // scale.shape[0])
    # Rows of zeros fill up the last block. They come last and are correlated with none.
    padding = -inputs % block
    rest = jnp.pad(w.astype(jnp.float32)[order], ((0, padding), (0, 0)))
    factor = jnp.pad(factor, ((0, padding), (0, padding)))
    factor = factor + jnp.diag(jnp.where(jnp.arange(inputs + padding) < inputs, 0.0, 1.0))
    group = jnp.pad(group, (0, padding))

    def round_row(
        i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array], begin: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        rows, values, errors = carry
        row_scale = scale[group[begin + i]]
        row_zero = None if zero_point is None else zero_point[group[begin + i]]
        rounded, _ = to_grid(rows[i], row_scale, row_zero, fmt)
        rounded = jnp.clip(rounded, jnp.float32(fmt.low), jnp.float32(fmt.high))
        weights = jax.lax.dynamic_slice(factor, (begin + i, begin), (1, block))[0]
        error = (rows[i] - from_grid(rounded, row_scale, row_zero)) / weights[i]
        # The weights before i are 0, so rows that are done stay.
        rows = rows - weights[:, None] * error
        return rows, values.at[i].set(rounded.astype(fmt.dtype)), errors.at[i].set(error)

    def round_block(
        b: jax.Array, carry: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        rest, values = carry
        begin = b * block
        rows = jax.lax.dynamic_slice_in_dim(rest, begin, block)
        empty = jnp.zeros((block, outputs), fmt.dtype), jnp.zeros((block, outputs), jnp.float32)
        _, found, errors = jax.lax.fori_loop(
            0, block, partial(round_row, begin=begin), (rows, *empty)
        )
        weights = jax.lax.dynamic_slice_in_dim(factor, begin, block)
        rest = rest - jnp.matmul(weights.T, errors, precision="highest")
        return rest, jax.lax.dynamic_update_slice_in_dim(values, found, begin, axis=0)

    values = jnp.zeros(rest.shape, fmt.dtype)
    _, values = jax.lax.fori_loop(0, rest.shape[0] // block, round_block, (rest, values))
    return jnp.zeros(w.shape, fmt.dtype).at[order].set(values[:inputs])
