"""Widths: what is left of each kernel after every cut, as bars from the input to the output."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from experiments.report.plots.style import BLUE, INK, style
from experiments.report.schema import Report
from experiments.report.widths import Shapes, change, cuts, kept

ROW = 0.17  # inches that a kernel takes
AROUND = 1.1  # inches above and below the kernels
BEFORE = "#e4e4e4"
PALE = "#a9cbe4"  # of the first of several cuts; the last is blue
LEGEND_COLUMNS = 7


def widths_figure(report: Report) -> Figure:
    """A row for each kernel: the share and the number of its parameters after each cut.

    Bars of later cuts lie over those of earlier ones; the shapes are those after the last.
    """
    before, after = report.kernels, cuts(report)
    colours = _colours(len(after))
    *_, last = after.values()
    with style():
        figure = Figure(
            figsize=(10, AROUND + ROW * len(before)), layout=ConstrainedLayoutEngine(wspace=0.03)
        )
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        shares = [[100 * share for share in kept(before, each).values()] for each in after.values()]
        numbers = [_numbers(before, each) for each in after.values()]
        _bars(left, [100.0] * len(before), shares, colours)
        _bars(right, _numbers(before, before), numbers, colours)
        for row, share in enumerate(shares[-1]):
            left.text(
                share + 0.7, row, f"{share:.0f}%", fontsize=6, color=INK, va="center_baseline"
            )
        left.set_xlabel("Parameters of the kernel that are kept (%)")
        left.set_xlim(0, 100)
        right.set_xlabel("Parameters of the kernel (thousands)")
        names = [path.removeprefix("params/").removesuffix("/kernel") for path in before]
        left.set_yticks(range(len(names)), names, fontsize=7)
        left.set_ylim(len(names) - 0.4, -0.6)
        right.tick_params(axis="y", labelleft=False)
        _shapes(right, before, last)
        figure.legend(
            handles=[Patch(color=BEFORE), *(Patch(color=colour) for colour in colours)],
            labels=["before", *after],
            loc="outside upper center",
            ncols=LEGEND_COLUMNS,
        )
    return figure


def _colours(cuts: int) -> list[str]:
    if cuts == 1:
        return [BLUE]
    scale = LinearSegmentedColormap.from_list("", [PALE, BLUE])
    return [to_hex(scale(index / (cuts - 1))) for index in range(cuts)]


def _numbers(before: Shapes, after: Shapes) -> list[float]:
    """Thousands of parameters of each kernel."""
    return [math.prod(after[path]) / 1000 if path in after else 0.0 for path in before]


def _bars(
    axes: Axes, before: Sequence[float], after: Sequence[Sequence[float]], colours: Sequence[str]
) -> None:
    rows = range(len(before))
    axes.barh(rows, before, height=0.72, color=BEFORE)
    for values, colour in zip(after, colours, strict=True):
        for bar, value, whole in zip(
            axes.barh(rows, values, height=0.72, color=colour), values, before, strict=True
        ):
            bar.set_zorder(3 - value / whole)  # the shorter lies in front
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _shapes(axes: Axes, before: Shapes, after: Shapes) -> None:
    """What became of each kernel's shape, right of the axes."""
    texts = []
    for path, shape in before.items():
        old, new = change(shape, after.get(path))
        texts.append(old if old == new else f"{old} → {new}")
    beside = axes.secondary_yaxis("right")
    beside.spines["right"].set_visible(False)
    beside.set_yticks(range(len(texts)), texts, fontsize=7)
    beside.tick_params(length=0)
