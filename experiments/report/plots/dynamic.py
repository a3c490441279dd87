"""Dynamic networks: accuracy against time and work, and where examples leave."""

from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.report.dynamic import Dynamic
from experiments.report.plots.style import BLUE, INK, QUIET, RED, style, wide_figure

COLOURS = (BLUE, RED, "#5a8f3c", "#b8860b", "#7d5ba6", "#3f9c94", "#a0527c")
ROW = 0.2  # inches that a bar takes
AROUND = 0.9  # inches above and below the bars


def dynamic_figure(found: Dynamic) -> Figure:
    """Accuracy against measured time, each way at each tolerance, and against foretold work."""
    with style():
        figure = wide_figure()
        left, right = figure.subplots(1, 2, sharey=True)
        for (name, way), colour in zip(found.ways.items(), cycle(COLOURS), strict=False):
            points = sorted((each.time_ratio, 100 * each.accuracy) for each in way.tried)
            left.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4,
                      linewidth=0.9, label=name)  # fmt: skip
            right.plot(
                [macs / found.macs for macs in way.curve_macs],
                [100 * accuracy for accuracy in way.curve_accuracy],
                color=colour,
            )
        _points(right, found)
        for axes in (left, right):
            axes.scatter(1, 100 * found.accuracy, marker="*", s=90, color=INK, zorder=3,
                         label=found.full if axes is left else None)  # fmt: skip
            axes.set_xlim(left=0)
        left.set_xlabel("Time of all examples in batches, of the full network's")
        right.set_xlabel("Multiply-accumulates, of the full network's")
        left.set_ylabel("Top-1 accuracy (%)")
        figure.legend(loc="outside right center")
    return figure


def _points(axes: Axes, found: Dynamic) -> None:
    """Every exit by itself."""
    axes.plot(
        [macs / found.macs for macs in found.exit_macs],
        [100 * accuracy for accuracy in found.exit_accuracy],
        color=QUIET, linestyle="none", marker="s", markersize=4, label="all at one exit",
    )  # fmt: skip


def shares_figure(found: Dynamic) -> Figure:
    """A bar for each way and tolerance: the shares of the examples that leave at each exit."""
    bars = [
        (f"{name}, {100 * each.tolerance:g}", each.shares)
        for name, way in found.ways.items()
        for each in way.tried
    ]
    with style():
        figure = Figure(figsize=(8, AROUND + ROW * len(bars)), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        exits = max(len(shares) for _, shares in bars)
        colours = [_colour(i / max(1, exits - 1)) for i in range(exits)]
        for row, (_, shares) in enumerate(bars):
            left = 0.0
            for exit, share in enumerate(shares):
                axes.barh(row, 100 * share, left=left, height=0.72, color=colours[exit],
                          label=str(exit + 1) if len(shares) == exits else None)  # fmt: skip
                left += 100 * share
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, title="exit", loc="outside right center")
        axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("Examples that leave at each exit (%), by the points that may be lost")
        axes.grid(visible=False)
    return figure


def _colour(share: float) -> tuple[float, float, float]:
    """From light to the blue of all pictures."""
    light, dark = (0.87, 0.91, 0.94), (0.12, 0.29, 0.43)
    red, green, blue = (a + share * (b - a) for a, b in zip(light, dark, strict=True))
    return red, green, blue
