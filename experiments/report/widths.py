"""The kernels of a run's models before and after cuts, as `report.md` shows them."""

import math
from collections.abc import Mapping

from experiments.report.layout import Table
from experiments.report.quantities import count, percent
from experiments.report.schema import Report, Shape
from slim import graph

FOLDED_FROM = 12  # rows of a table that is shown only when asked for

Shapes = Mapping[str, Shape]


def kernels(traced: graph.Graph) -> tuple[str, ...]:
    """The paths of the parameters that feed a contraction, in program order.

    A stack of layers that is scanned has one kernel, with a leading dimension of layers.
    """
    fed = (path for site in graph.sites(traced) for path in site.operands if path is not None)
    return tuple(dict.fromkeys(fed))


def cuts(report: Report) -> dict[str, Shapes]:
    """The kernels that are left of the recipe's model, by the stage that changed their shapes."""
    return {stage.name: stage.kernels for stage in report.stages if stage.kernels is not None}


def entries(shapes: Shapes) -> int:
    """Parameters in kernels of these shapes."""
    return sum(map(math.prod, shapes.values()))


def kept(before: Shapes, after: Shapes) -> dict[str, float]:
    """The share of each kernel's parameters that is left."""
    return {
        path: math.prod(after[path]) / math.prod(shape) if path in after else 0.0
        for path, shape in before.items()
    }


def change(before: Shape, after: Shape | None) -> tuple[str, str]:
    """Both shapes as text; None: the kernel is gone."""
    return _text(before), "removed" if after is None else _text(after)


def width_tables(report: Report) -> list[Table]:
    """A table for each stage that cut: every kernel's shape before any cut, and after this one."""
    return [_table(stage, report.kernels, after) for stage, after in cuts(report).items()]


def _table(stage: str, before: Shapes, after: Shapes) -> Table:
    rows = [
        (path.removeprefix("params/"), *change(before[path], after.get(path)), percent(share))
        for path, share in kept(before, after).items()
    ]
    old, new = entries(before), entries(after)
    rows.append(("all kernels", count(old), count(new), percent(new / old)))
    caption = f"{stage}: {count(old)} to {count(new)} parameters in kernels"
    return Table(caption, ("kernel", "before", "after", "parameters kept"), tuple(rows))


def _text(shape: Shape) -> str:
    return "×".join(map(str, shape))
