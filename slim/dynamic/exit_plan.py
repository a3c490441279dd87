"""Where a network has exits, and what classifiers they are; it stands alone, as other plans do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from slim.dynamic.exits import init_exits, with_exits
from slim.dynamic.heads import POOLINGS, Head, exit_head
from slim.graph import Graph
from slim.graph.stored_json import Fields, Stored, exactly, row
from slim.paths import unknown_name

PyTree = Any

EXITS = "exits"
"""Under which name the exits' parameters stand among the network's."""


@dataclass(frozen=True)
class ExitPlan(Stored):
    """Exits of a network with the variables `{"params": ..., ...}`.

    Attributes:
        boundaries: taps in program order, an exit at each; the network's own classifier is the last
            exit.
        classes: width of the logits.
        pooling: a name of `slim.dynamic.POOLINGS`.
        pooler: whether a tanh layer stands before the classifier.
    """

    KIND: ClassVar[str] = "exits"
    FIELDS: ClassVar[Fields] = {
        "boundaries": row(exactly(str)),
        "classes": exactly(int),
        "pooling": exactly(str),
        "pooler": exactly(bool),
    }

    boundaries: tuple[str, ...]
    classes: int
    pooling: str = "mean"
    pooler: bool = False

    def __post_init__(self) -> None:
        if not self.boundaries:
            raise ValueError("boundaries: none given; name one or more taps to leave at")
        if self.pooling not in POOLINGS:
            raise ValueError(unknown_name("pooling", self.pooling, POOLINGS))

    @property
    def head(self) -> Head:
        """The classifier at each."""
        return exit_head(self.classes, pooling=self.pooling, pooler=self.pooler)

    def init(self, graph: Graph, key: jax.Array) -> PyTree:
        """Fresh parameters of the exits of a graph."""
        return init_exits(graph, self.boundaries, self.head, key)

    def on(
        self,
        graph: Graph,
        *,
        mask: Callable[..., jax.Array] | None = None,
        frozen: bool = False,
    ) -> Callable[..., tuple[Any, ...]]:
        """`fn(variables, *inputs)` -> the logits of each exit, then what `graph` gives.

        Args:
            graph: the network, of variables without exits.
            mask: inputs -> which positions are no padding.
            frozen: exits give no gradients to the network.
        """
        run = with_exits(graph, self.boundaries, self.head, mask=mask, frozen=frozen)

        def fn(variables: PyTree, *inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
            given = {"network": without_exits(variables), "exits": variables["params"][EXITS]}
            return run(given, *inputs, **kwargs)

        return fn


def with_fresh(variables: PyTree, made: PyTree) -> PyTree:
    """Variables of a network with those of its exits."""
    return {**variables, "params": {**variables["params"], EXITS: made}}


def without_exits(variables: PyTree) -> PyTree:
    """The variables of the network alone."""
    params = {name: tree for name, tree in variables["params"].items() if name != EXITS}
    return {**variables, "params": params}
