"""Ranges from each batch's least and greatest values."""

import jax
import jax.numpy as jnp

from slim.quant.observers.observer import (
    Extremes,
    Observer,
    extremes_of,
    no_extremes,
    widen,
)


def minmax() -> Observer:
    """The least and the greatest value of all batches: nothing is clipped.

    >>> observer = minmax()
    >>> state = observer.update(observer.init(), jnp.array([-1.0, 3.0]))
    >>> low, high = observer.range(state, "int8", True)
    >>> float(low), float(high)
    (-3.0, 3.0)
    """

    def update(state: Extremes, x: jax.Array) -> Extremes:
        low, high = extremes_of(x)
        return Extremes(jnp.minimum(state.low, low), jnp.maximum(state.high, high))

    return Observer("minmax", no_extremes, update, _range)


def moving_average(decay: float = 0.99) -> Observer:
    """Averages of the batches' extremes: average <- decay average + (1 - decay) extreme.

    They start at the first batch's. Jacob et al. 2018 (arXiv:1712.05877), section 3.1. Late
    batches count more: the order matters.

    Raises:
        ValueError: decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(
            f"moving_average decay is {decay}, must be in [0, 1): 0 forgets all but the last batch"
        )

    def update(state: Extremes, x: jax.Array) -> Extremes:
        batch = extremes_of(x)
        first = state.low > state.high
        return Extremes(
            *(
                jnp.where(first, new, decay * old + (1 - decay) * new)
                for old, new in zip(state, batch, strict=True)
            )
        )

    return Observer("moving_average", no_extremes, update, _range)


def _range(state: Extremes, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
    return widen(state, format, symmetric)
