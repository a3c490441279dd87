"""Variants of one network: accuracy against measured time, and what serving by them gave."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.adaptive import Adaptive
from experiments.report.plots.labels import label
from experiments.report.plots.style import BLUE, QUIET, RED, style, wide_figure


def adaptive_figure(record: Adaptive) -> Figure:
    """Each variant's accuracy against a call's time, at the least and the most examples.

    Beside them each policy's accuracy against the share of the answers that were in time.
    """
    rows = record.variants
    sizes = [calls.size for calls in next(iter(rows.values())).calls]
    with style():
        figure = wide_figure()
        panels = figure.subplots(1, 3, sharey=True)
        panels[0].set_ylabel("Top-1 accuracy (%)")
        drawn = []
        for axes, place in zip(panels, (0, -1), strict=False):
            points = [(1e3 * row.calls[place].median_s, 100 * row.top1) for row in rows.values()]
            axes.set_xlabel(f"A call of {sizes[place]} (ms, median)")
            axes.plot(*zip(*points, strict=True), color="#cfcfcf", linewidth=1, zorder=1)
            axes.set_xlim(0, 1.15 * max(x for x, _ in points))
            drawn.append((axes, points, list(rows), [BLUE] * len(rows)))
        served = record.policies
        colours = [RED if name == "adaptive" else QUIET for name in served]
        points = [(100 * each.examples_in_time, 100 * each.top1) for each in served.values()]
        panels[2].set_xlabel(f"Served within {1e3 * record.target_s:.3g} ms (%)")
        panels[2].set_xlim(-5, 105)
        drawn.append((panels[2], points, list(served), colours))
        for axes, points, _, colours in drawn:
            _scatter(axes, points, colours)
        figure.draw_without_rendering()  # gives the axes their places, which the labels need
        figure.set_layout_engine("none")
        for axes, points, names, colours in drawn:
            label(axes, points, names, colours)
    return figure


def _scatter(axes: Axes, points: list[tuple[float, float]], colours: list[str]) -> None:
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, c=colours, s=44, edgecolors="white", linewidths=0.8, zorder=2)
