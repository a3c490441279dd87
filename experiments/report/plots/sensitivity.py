"""Sensitivity: what pruning each group alone costs, and what its scores foretold, as heat maps."""

from collections.abc import Callable
from math import sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.report.plots.style import BLUE, INK, RED, style
from slim.prune import Sensitivity

ROW = 0.21  # inches that a group takes
AROUND = 1.1  # inches above and below the groups
DARK = 0.6  # share of the colour scale from which on a number is written in white


def sensitivity_figure(sensitivity: Sensitivity, score: str) -> Figure:
    """A row for each group, a column for each keep ratio; the metric is minus the loss.

    Colours are of the square roots of the values: small costs are those that ratios depend on.
    """
    curves = sensitivity.curves
    rises = [[sensitivity.baseline - p.metric for p in points] for points in curves.values()]
    estimates = [[p.estimate for p in points] for points in curves.values()]
    keeps = [point.keep for point in next(iter(curves.values()))]
    with style():
        figure = Figure(
            figsize=(10, AROUND + ROW * len(curves)), layout=ConstrainedLayoutEngine(wspace=0.03)
        )
        left, right = figure.subplots(1, 2, sharey=True)
        _heat_map(left, rises, RED, "{:z.2f}".format)
        _heat_map(right, estimates, BLUE, "{:.2g}".format)
        left.set_title("Measured: rise of the loss (nats)", fontsize=9)
        right.set_title(f"Foretold: sum of the removed units' {score} scores", fontsize=9)
        names = [f"{name.removeprefix('params/')}  ({sensitivity.sizes[name]})" for name in curves]
        left.set_yticks(range(len(names)), names, fontsize=8)
        for axes in (left, right):
            axes.set_xticks(range(len(keeps)), [f"{keep:.4g}" for keep in keeps])
            axes.set_xlabel("Share of the group's units that is kept")
    return figure


def _heat_map(
    axes: Axes, values: list[list[float]], colour: str, text: Callable[[float], str]
) -> None:
    grid = np.asarray(values)
    top = max(float(grid.max()), 1e-12)
    colours = LinearSegmentedColormap.from_list("", ["#fbfbfb", colour])
    shown = np.clip(grid, 0, None)  # what pruning improves costs nothing
    axes.imshow(shown, cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=top), aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(grid):
        dark = sqrt(shown[row, column] / top) > DARK
        axes.text(
            column, row, text(value), fontsize=7.5, ha="center", va="center_baseline",
            color="white" if dark else INK,
        )  # fmt: skip
