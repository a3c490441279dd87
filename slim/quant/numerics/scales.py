"""From the range of a block's numbers to its scale and zero point."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from slim.quant.numerics.formats import find_format

# Ranges that would need a smaller scale count as zero. Far above float32's smallest normal number,
# so that a scale times the smallest value of any format is normal, and so is a scale's inverse.
SMALLEST_SCALE = 2.0**-100


def choose_scale(
    low: jax.Array, high: jax.Array, format: str, symmetric: bool
) -> tuple[jax.Array, jax.Array | None]:
    """The scale and zero point whose format covers the numbers from `low` to `high`.

    Symmetric: scale = max(|low|, |high|) / format.high, and no zero point. An unsigned format then
    covers 0 to `high`, and what is negative becomes 0.

    Affine: the range is widened to contain 0, scale = (high - low) / (format.high - format.low)
    and zero_point = format.low - round(low / scale), so that 0.0 is stored exactly.

    A range of zeros gets scale 1, and so does every range of a format that numbers are cast to.

    Args:
        low: the lowest number per block.
        high: the highest, of the same shape.
        format: its name in `FORMATS`.
        symmetric: without a zero point, or with one.

    Returns:
        float32 scale and int32 zero point (None if symmetric) of the shape of `low`. Inside `jit`
        a range that is not finite gives a scale that is not finite.

    Raises:
        ValueError: an affine float format; and outside `jit`, where the numbers are known, a range
            that is not finite or whose `low` is above its `high`.

    >>> choose_scale(jnp.array(-1.0), jnp.array(3.0), "uint8", symmetric=False)[1].item()
    64
    """
    fmt = find_format(format)
    if not symmetric and not fmt.is_integer:
        raise ValueError(
            f"symmetric is False and format is {format!r}: a zero point goes with integers only; "
            "make it symmetric"
        )
    low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    _check_range(low, high)
    if fmt.is_cast:
        return jnp.ones_like(low), None
    return _covering(low, high, format, symmetric)


# Compiled as one program: a model's first quantization waits for little but compilations.
@partial(jax.jit, static_argnames=("format", "symmetric"), inline=True)
def _covering(
    low: jax.Array, high: jax.Array, format: str, symmetric: bool
) -> tuple[jax.Array, jax.Array | None]:
    fmt = find_format(format)
    # Products, not quotients: XLA makes products of some quotients and not of others, and a scale
    # should be the same number inside `jit` and outside.
    if symmetric:
        reach = jnp.maximum(-low, high) if fmt.is_signed else jnp.maximum(high, 0.0)
        return _not_zero(reach * jnp.float32(1 / fmt.high)), None
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    scale = _not_zero((high - low) * jnp.float32(1 / (fmt.high - fmt.low)))
    zero_point = jnp.clip(fmt.low - jnp.round(low * (1.0 / scale)), fmt.low, fmt.high)
    return scale, zero_point.astype(jnp.int32)


def _not_zero(scale: jax.Array) -> jax.Array:
    return jnp.where(scale < SMALLEST_SCALE, jnp.float32(1.0), scale)  # NaN stays NaN


def _check_range(low: jax.Array, high: jax.Array) -> None:
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    lows, highs = np.asarray(low), np.asarray(high)
    for name, values in (("low", lows), ("high", highs)):
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise ValueError(
                f"{name} of the range to quantize is not finite at {bad} of {values.size} places: "
                "the numbers it was taken from hold infinities or NaN; look for where they arise"
            )
    if (lows > highs).any():
        at = int(np.argmax((lows > highs).ravel()))
        raise ValueError(
            f"range to quantize is from low={lows.ravel()[at]} to high={highs.ravel()[at]} at "
            f"place {at}: low must not be above high; was there calibration data?"
        )
