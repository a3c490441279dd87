"""AWQ on one weight: give the inputs that matter finer steps.

x @ w = (x / s) @ (s w); where s_j is large, row j of s w is rounded with steps that are small
against it. s is sought as a power of how large the inputs are. Lin et al. 2023, arXiv:2306.00978.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.quant.hessian import check_hessian, output_error
from slim.quant.numerics import WEIGHT_RANGES, choose_scale, fake_quantize

STEPS = 20


def awq_factors(
    w: jax.Array,
    hessian: jax.Array,
    input_mean: jax.Array,
    scale_shape: tuple[int, ...],
    format: str,
    symmetric: bool,
    weight_range: str = "minmax",
) -> jax.Array:
    """The factors s whose rounded weights change the outputs least.

    s = m^a / sqrt(max m^a min m^a) with m_j = E |x_j|, for the a of 0, 1/20 ... 19/20 that
    minimises tr(d^T H d), d = quantize(s w) / s - w. a = 0 is rounding to nearest.

    Args:
        w: (in, out), any float dtype; computed in float32.
        hessian: E x x^T of the inputs, float32 (in, in); see `input_hessian`.
        input_mean: m, (in,).
        scale_shape: of the scales of s w; see `scale_shape`.
        format: its name in `FORMATS`.
        symmetric: without a zero point, or with one.
        weight_range: the range that each block of s w is given, by its name in `WEIGHT_RANGES`.

    Returns:
        float32 (in,), positive. The weights to quantize are `smooth(w, s)`, for inputs x / s.

    Raises:
        ValueError: shapes that do not fit, an unknown range; outside `jit`, a hessian that is not
            finite.
    """
    check_hessian(hessian, w)
    if input_mean.shape != w.shape[:1]:
        raise ValueError(
            f"input_mean of shape {input_mean.shape} for weights of shape {w.shape}: must be "
            f"({w.shape[0]},), E |x| per input"
        )
    if weight_range not in WEIGHT_RANGES:
        raise ValueError(f"weight_range is {weight_range!r}; there are {', '.join(WEIGHT_RANGES)}")
    return _search(w, hessian, input_mean, scale_shape, format, symmetric, weight_range)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _search(
    w: jax.Array,
    hessian: jax.Array,
    input_mean: jax.Array,
    scale_shape: tuple[int, ...],
    format: str,
    symmetric: bool,
    weight_range: str,
) -> jax.Array:
    w = w.astype(jnp.float32)
    mean = input_mean.astype(jnp.float32)
    # An input that was never seen is as little worth as any that was.
    seen = mean > 0
    least = jnp.min(jnp.where(seen, mean, jnp.inf))
    mean = jnp.where(seen, mean, jnp.where(jnp.isfinite(least), least, 1.0))

    def factors(power: jax.Array) -> jax.Array:
        raised = mean**power
        return raised / jnp.sqrt(raised.max() * raised.min())

    def error(power: jax.Array) -> jax.Array:
        by = factors(power)[:, None]
        low, high = WEIGHT_RANGES[weight_range](w * by, scale_shape, format, symmetric)
        scale, zero_point = choose_scale(low, high, format, symmetric)
        return output_error(fake_quantize(w * by, scale, zero_point, format) / by - w, hessian)

    powers = jnp.arange(STEPS).astype(jnp.float32) / STEPS
    # A map and not a vmap: one copy of the weight at a time.
    return factors(powers[jnp.argmin(jax.lax.map(error, powers))])
