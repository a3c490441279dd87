"""Accuracy, or perplexity, against what it costs: size, FLOPs, latency."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.measure import Measures
from experiments.report.deciding import deciding
from experiments.report.plots.labels import label
from experiments.report.plots.style import BLUE, QUIET, RED, style, wide_figure
from experiments.report.schema import Report, Sweep
from experiments.report.sweeps import deviation, sweep_rows

LOGARITHMIC_FROM = 20  # times between the least and the greatest value of a cost

Cost = tuple[str, Callable[[Measures], float]]
SIZE: Cost = ("Size (MiB)", lambda m: m.size_bytes / 2**20)
FLOPS: Cost = ("FLOPs of one example (millions)", lambda m: m.flops / 1e6)
LATENCY: Cost = ("Latency at batch 1 (ms)", lambda m: m.latency_b1_median_s * 1e3)
RATIO: Cost = ("Latency at batch 1 (baseline = 1)", lambda m: m.latency_b1_ratio)


class Point(NamedTuple):
    """A model in the picture: its measures, one a seed."""

    name: str
    results: tuple[Measures, ...]
    colour: str

    def mean(self, measure: Callable[[Measures], float]) -> float:
        """Over the seeds."""
        return fmean(measure(result) for result in self.results)


def report_costs(report: Report) -> Figure:
    """The models of a run, the baseline and the final one set apart by colour.

    A line leads through them in order; not to those that were trained from scratch.
    """
    colours = {report.final: RED, report.baseline: QUIET}
    points = [Point(name, (m,), colours.get(name, BLUE)) for name, m in report.models.items()]
    line = [name for name in report.models if name not in report.scratch]
    return _figure(points, (SIZE, FLOPS, LATENCY), line)


def sweep_costs(sweep: Sweep) -> Figure:
    """The baseline and each recipe's final model: means over seeds, bars of their deviation.

    Their latencies were taken in different runs, each in turn with the baseline: only the ratios
    can be compared.
    """
    baseline, *others = sweep_rows(sweep)
    points = [
        Point(baseline.name, baseline.results, QUIET),
        *(Point(row.name, row.results, BLUE) for row in others),
    ]
    return _figure(points, (SIZE, FLOPS, RATIO))


def _figure(points: Sequence[Point], costs: Sequence[Cost], line: Sequence[str] = ()) -> Figure:
    """The deciding score against each cost; a line joins the models that `line` names."""
    score = deciding(points[0].results[0])
    values = [score.factor * point.mean(score.of) for point in points]
    errors = [score.factor * deviation([score.of(r) for r in point.results]) for point in points]
    names, colours = [point.name for point in points], [point.colour for point in points]
    joined = [index for index, name in enumerate(names) if name in line]
    with style():
        figure = wide_figure()
        panels = figure.subplots(1, len(costs), sharey=True)
        panels[0].set_ylabel(score.axis)
        panels[0].set_ylim(*_limits(values))
        drawn = []
        for axes, (title, cost) in zip(panels, costs, strict=True):
            x = [point.mean(cost) for point in points]
            axes.set_xlabel(title)
            _scale(axes, x)
            axes.plot(
                [x[i] for i in joined], [values[i] for i in joined],
                color="#cfcfcf", linewidth=1, zorder=1,
            )  # fmt: skip
            axes.errorbar(x, values, errors, fmt="none", ecolor=colours, elinewidth=1, zorder=1)
            axes.scatter(x, values, c=colours, s=44, edgecolors="white", linewidths=0.8, zorder=2)
            drawn.append((axes, list(zip(x, values, strict=True))))
        figure.draw_without_rendering()  # gives the axes their places, which the labels need
        figure.set_layout_engine("none")
        for axes, xy in drawn:
            label(axes, xy, names, colours)
    return figure


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Room around the values, and never so little of the scale that noise looks like a result."""
    low, high = min(values), max(values)
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
