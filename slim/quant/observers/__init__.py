"""Observers by name: what a site's activations are reduced to, and the range that follows.

    observer = OBSERVERS["percentile"](q=99.9)
    state = observer.init()
    for batch in batches:
        state = observer.update(state, batch)
    low, high = observer.range(state, "int8", symmetric=True)
    check_range(low, high, site)

A new one is a factory of an `Observer` in this folder and its place in `OBSERVERS`; if it chooses
from a histogram, `histogram_observer` makes the rest of it.
"""

from collections.abc import Callable

from slim.quant.observers.extremes import minmax, moving_average
from slim.quant.observers.kl import kl
from slim.quant.observers.mse import mse
from slim.quant.observers.observer import Observer, check_range
from slim.quant.observers.percentile import percentile

OBSERVERS: dict[str, Callable[..., Observer]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "kl": kl,
}

__all__ = [
    "OBSERVERS",
    "Observer",
    "check_range",
    "kl",
    "minmax",
    "moving_average",
    "mse",
    "percentile",
]
