"""Accuracy against what it costs: size, FLOPs, latency."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.measure import Measures
from experiments.report.plots.labels import label
from experiments.report.plots.style import BLUE, QUIET, RED, style, wide_figure
from experiments.report.schema import Report, Sweep

LOGARITHMIC_FROM = 20  # times between the least and the greatest value of a cost

Cost = tuple[str, Callable[[Measures], float]]
SIZE: Cost = ("Size (MiB)", lambda m: m.size_bytes / 2**20)
FLOPS: Cost = ("FLOPs of one image (millions)", lambda m: m.flops / 1e6)
LATENCY: Cost = ("Latency at batch 1 (ms)", lambda m: m.latency_b1_median_s * 1e3)
RATIO: Cost = ("Latency at batch 1 (baseline = 1)", lambda m: m.latency_b1_ratio)


class Point(NamedTuple):
    """A model in the picture."""

    name: str
    measures: Measures
    colour: str


def report_costs(report: Report) -> Figure:
    """The models of a run in order, the baseline and the last one set apart by colour."""
    *_, last = report.models
    colours = {last: RED, report.baseline: QUIET}
    points = [Point(name, m, colours.get(name, BLUE)) for name, m in report.models.items()]
    return _figure(points, (SIZE, FLOPS, LATENCY), joined=True)


def sweep_costs(sweep: Sweep) -> Figure:
    """The baseline and each recipe's final model.

    Their latencies were taken in different runs, each in turn with the baseline: only the ratios
    can be compared.
    """
    colours = {sweep.baseline.name: QUIET}
    points = [Point(name, m, colours.get(name, BLUE)) for name, m in sweep.models.items()]
    return _figure(points, (SIZE, FLOPS, RATIO), joined=False)


def _figure(points: Sequence[Point], costs: Sequence[Cost], *, joined: bool) -> Figure:
    """Top-1 against each cost, side by side; `joined` by a line in the order given."""
    top1 = [100 * point.measures.top1 for point in points]
    names, colours = [point.name for point in points], [point.colour for point in points]
    with style():
        figure = wide_figure()
        panels = figure.subplots(1, len(costs), sharey=True)
        panels[0].set_ylabel("Top-1 accuracy (%)")
        panels[0].set_ylim(*_limits(top1))
        drawn = []
        for axes, (title, cost) in zip(panels, costs, strict=True):
            x = [cost(point.measures) for point in points]
            axes.set_xlabel(title)
            _scale(axes, x)
            if joined:
                axes.plot(x, top1, color="#cfcfcf", linewidth=1, zorder=1)
            axes.scatter(x, top1, c=colours, s=44, edgecolors="white", linewidths=0.8, zorder=2)
            drawn.append((axes, list(zip(x, top1, strict=True))))
        figure.draw_without_rendering()  # gives the axes their places, which the labels need
        figure.set_layout_engine("none")
        for axes, xy in drawn:
            label(axes, xy, names, colours)
    return figure


def _limits(percentages: Sequence[float]) -> tuple[float, float]:
    """Room around the values, and never so little of the scale that noise looks like a result."""
    low, high = min(percentages), max(percentages)
    room = max(0.2 * (high - low), 1.0)
    return low - room, high + room


def _scale(axes: Axes, costs: Sequence[float]) -> None:
    """From zero, so that lengths are proportions; logarithmic where that would squeeze."""
    if max(costs) > LOGARITHMIC_FROM * min(costs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(costs) / 2, max(costs) * 4)
    else:
        axes.set_xlim(0, 1.25 * max(costs) or 1)
