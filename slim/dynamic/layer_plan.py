"""Plans that say which layers the texts of each complexity run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph.stored_json import Fields, Stored, exactly, number, row

Layers = tuple[int, ...]


@dataclass(frozen=True)
class LayerPlan(Stored):
    """Which layers the texts of each bucket run.

    Invariants: edges ascend strictly; there is one more entry in `options`, a bucket's index into
    `layers`, than there are edges.

    Attributes:
        edges: complexities between the buckets; a text at an edge is in the bucket above it.
        options: what each bucket runs, from the simplest to the most complex texts.
        layers: the subsets of the layers that may be run, each ascending.
    """

    KIND: ClassVar[str] = "layers"
    FIELDS: ClassVar[Fields] = {
        "edges": row(number),
        "options": row(exactly(int)),
        "layers": row(row(exactly(int))),
    }

    edges: tuple[float, ...]
    options: tuple[int, ...]
    layers: tuple[Layers, ...]

    def __post_init__(self) -> None:
        if len(self.options) != len(self.edges) + 1:
            raise ValueError(
                f"edges: {len(self.edges)} of them part {len(self.edges) + 1} buckets, but options "
                f"has {len(self.options)}: give one for each"
            )
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges {self.edges} must ascend")
        if not all(0 <= option < len(self.layers) for option in self.options):
            raise ValueError(
                f"options {self.options}: must be from 0 to {len(self.layers) - 1}, the last of "
                "layers"
            )
        for each in self.layers:
            if list(each) != sorted(set(each)) or (each and each[0] < 0):
                raise ValueError(f"layers {each} must ascend from 0 or above: give each layer once")


def prefixes(depth: int) -> tuple[Layers, ...]:
    """The first layer, the first two, ... all `depth`.

    >>> prefixes(3)
    ((0,), (0, 1), (0, 1, 2))
    """
    return by_importance(range(depth, 0, -1))


def by_importance(importance: Sequence[float] | np.ndarray) -> tuple[Layers, ...]:
    """The most important layer, the two most important, ... all, each in the network's order.

    Args:
        importance: of each layer: the loss or the accuracy lost without it, say.

    Raises:
        ValueError: no layers, or a number that is not finite.

    >>> by_importance([0.3, 0.1, 0.2])
    ((0,), (0, 2), (0, 1, 2))
    """
    values = np.asarray(importance, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"importance is {values.tolist()}: give a finite number for each layer")
    order = np.argsort(-values, kind="stable").tolist()
    return tuple(tuple(sorted(order[: count + 1])) for count in range(len(order)))


def assign(plan: LayerPlan, complexity: jax.Array) -> jax.Array:
    """The option of each text: an index into `plan.layers`; int32, of the shape of `complexity`.

    >>> plan = LayerPlan((0.5,), (0, 2), prefixes(3))
    >>> assign(plan, jnp.array([0.1, 0.5])).tolist()
    [0, 2]
    """
    bucket = jnp.searchsorted(
        jnp.asarray(plan.edges, jnp.float32), complexity.astype(jnp.float32), side="right"
    )
    return jnp.asarray(plan.options, jnp.int32)[bucket]
