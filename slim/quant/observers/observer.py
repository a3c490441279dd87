"""What an observer is: a fold over a site's activations that ends in the range to quantize."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.quant.numerics import extremes, find_format

PyTree = Any


class Observer(NamedTuple):
    """Four pure functions; all but `init` may be traced, and vmapped over stacked states.

    `range` gives what `choose_scale` takes: low <= 0 <= high; with `symmetric`, low = -high, or
    low = 0 where the format is unsigned. It is not finite if a NaN or an infinity was observed, or
    nothing was: `check_range` tells them apart.

    Attributes:
        name: its name in `OBSERVERS`.
        init: () -> the state before any batch, a pytree of arrays of fixed shapes.
        update: (state, x) -> the state after one more batch, x of any shape and floating dtype.
        range: (state, format, symmetric) -> (low, high), float32 scalars.
    """

    name: str
    init: Callable[[], PyTree]
    update: Callable[[PyTree, jax.Array], PyTree]
    range: Callable[[PyTree, str, bool], tuple[jax.Array, jax.Array]]


class Extremes(NamedTuple):
    """The least and the greatest value seen, float32; (inf, -inf) before any."""

    low: jax.Array
    high: jax.Array


def no_extremes() -> Extremes:
    """The extremes of nothing."""
    return Extremes(jnp.float32(jnp.inf), jnp.float32(-jnp.inf))


def extremes_of(x: jax.Array) -> Extremes:
    """The extremes of a batch; NaN if it holds a NaN."""
    return Extremes(*extremes(x))


def widen(extremes: Extremes, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
    """The smallest range around the extremes of the kind that `Observer.range` promises.

    Of an unsigned format without zero point, negative values are clipped whatever the scale: it
    gets [0, high]. What is not finite stays so.
    """
    low, high = extremes
    unseen = low > high
    wide_low, wide_high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    if symmetric and not find_format(format).is_signed:
        wide_low = jnp.where(jnp.isfinite(low), 0.0, wide_low)
    elif symmetric:
        wide_high = jnp.maximum(-wide_low, wide_high)
        wide_low = -wide_high
    return jnp.where(unseen, low, wide_low), jnp.where(unseen, high, wide_high)


def check_range(
    low: jax.Array,
    high: jax.Array,
    site: str,
    *,
    remedy: str = "the float model must be finite on the calibration data",
) -> None:
    """Raise ValueError, saying why, if the concrete range of `site` is not finite.

    A stacked site (a scan over layers) is checked in all of its layers.
    """
    lows, highs = np.asarray(low), np.asarray(high)
    if (lows > highs).any():
        raise ValueError(
            f"site {site!r} was never observed: give calibration at least one batch, and one in "
            "which the site runs"
        )
    if np.isnan(lows).any() or np.isnan(highs).any():
        raise ValueError(f"site {site!r} was given NaN: {remedy}")
    if np.isinf(lows).any() or np.isinf(highs).any():
        raise ValueError(
            f"site {site!r} was given infinite values, range [{lows.min()}, {highs.max()}]: "
            f"{remedy}"
        )
