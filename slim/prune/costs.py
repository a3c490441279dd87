"""A network's cost as a function of its groups' widths, exactly and without tracing again.

Every parameter's size and every contraction's multiply-accumulates are products of axis sizes, and
an axis' size follows from the groups that it is made of.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slim.graph import Graph
from slim.graph.axes import Axis
from slim.graph.cost import CONTRACTIONS
from slim.graph.groups import analyse
from slim.graph.rules.scope import Scope


@dataclass(frozen=True)
class WidthCost:
    """A sum of amounts, each in proportion to the sizes of some axes.

    Attributes:
        amounts: what each term is at the original widths.
        axes: the axes whose product each term is in proportion to.
        names: the group of each atom that may be cut.
    """

    amounts: tuple[int, ...]
    axes: tuple[tuple[Axis, ...], ...]
    names: Mapping[Axis, str]

    def __call__(self, widths: Mapping[str, int]) -> int:
        """The cost at these widths; groups that are not named keep theirs."""
        sizes: dict[Axis, int] = {}
        total = 0
        for amount, each in zip(self.amounts, self.axes, strict=True):
            small = math.prod(self._size(axis, widths, sizes) for axis in each)
            total += amount * small // math.prod(axis.size for axis in each)
        return total

    def _size(self, axis: Axis, widths: Mapping[str, int], known: dict[Axis, int]) -> int:
        axis = axis.find()
        if axis not in known:
            parts = [self._size(part, widths, known) for part in axis.parts]
            if axis.kind == "atom":
                known[axis] = widths.get(self.names.get(axis, ""), axis.size)
            else:
                known[axis] = math.prod(parts) if axis.kind == "product" else sum(parts)
        return known[axis]


def width_costs(graph: Graph) -> dict[str, Callable[[Mapping[str, int]], int]]:
    """What can be budgeted, by name, each a function of group widths.

    * `params`: entries of all parameters;
    * `bytes`: their bytes;
    * `macs`: multiply-accumulates of one call, as `slim.graph.cost` counts them;
    * `units`: the groups' indices.

    >>> import jax, jax.numpy as jnp
    >>> from slim.graph import trace
    >>> params = {"up": jnp.ones((3, 8)), "down": jnp.ones((8, 2))}
    >>> graph = trace(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params, jnp.ones((5, 3)))
    >>> costs = width_costs(graph)
    >>> costs["params"]({"up:1": 4}), costs["macs"]({"up:1": 4})
    (20, 100)
    """
    analysis = analyse(graph)
    shapes = graph.param_shapes
    dims = [analysis.inferred.params[path] for path in shapes]
    counts = [math.prod(shape.shape) for shape in shapes.values()]
    itemsizes = [shape.dtype.itemsize for shape in shapes.values()]
    macs = list(_contractions(analysis.inferred.scope, 1))
    groups = analysis.groups.values()

    def of(amounts: Any, axes: Any) -> WidthCost:
        return WidthCost(tuple(amounts), tuple(axes), analysis.names)

    return {
        "params": of(counts, dims),
        "bytes": of([n * size for n, size in zip(counts, itemsizes, strict=True)], dims),
        "macs": of([amount for amount, _ in macs], [axes for _, axes in macs]),
        "units": lambda widths: sum(widths.get(group.name, group.size) for group in groups),
    }


def _contractions(scope: Scope, times: int) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """The MACs of each contraction, with the axes that they are in proportion to."""
    for i, eqn in enumerate(scope.jaxpr.eqns):
        inner = scope.inner.get(i, ())
        name = eqn.primitive.name
        if inner:
            runs = times * (eqn.params["length"] if name == "scan" else 1)
            branches = [list(_contractions(each, runs)) for each in inner]
            if name == "cond":
                yield from max(branches, key=lambda terms: sum(amount for amount, _ in terms))
            elif name.startswith("custom_"):
                # What the equation computes comes first; its derivatives' rules follow.
                yield from branches[0]
            else:
                for terms in branches:
                    yield from terms
        elif name in CONTRACTIONS:
            macs, _ = CONTRACTIONS[name](eqn)
            ins, out = [scope.of(var) for var in eqn.invars], scope.of(eqn.outvars[0])
            yield macs * times, _proportional(eqn, ins, out)


def _proportional(eqn: Any, ins: list[tuple[Axis, ...]], out: tuple[Axis, ...]) -> tuple[Axis, ...]:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return (*out, *(ins[0][d] for d in contracted))
    if name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        # Spatial axes are never cut.
        return out[numbers.out_spec[0]], out[numbers.out_spec[1]], ins[1][numbers.rhs_spec[1]]
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    taken = {*contracted, *batch, *numbers.rhs_group_dimensions}
    return (*ins[0], *(axis for d, axis in enumerate(ins[1]) if d not in taken))
