"""The deciding score of a sweep's recipes over their seeds: a row each, the best on top."""

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.report.deciding import deciding
from experiments.report.plots.style import BLUE, QUIET, style
from experiments.report.schema import Sweep
from experiments.report.sweeps import deviation, sweep_rows

ROW = 0.26  # inches that a recipe takes
AROUND = 0.8  # inches above and below the recipes
BELOW = 0.28  # of a row, from the mean to the seeds


def seeds_figure(sweep: Sweep) -> Figure:
    """The mean with the sample standard deviation to either side, above a pale dot for each seed.

    The baseline's mean is a line through all rows.
    """
    rows = sweep_rows(sweep)
    score = deciding(rows[0].results[0])
    with style():
        figure = Figure(figsize=(7, AROUND + ROW * len(rows)), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        for place, row in enumerate(rows):
            values = [score.factor * score.of(result) for result in row.results]
            mean, colour = sum(values) / len(values), BLUE if place else QUIET
            axes.scatter(
                values, [place + BELOW] * len(values), s=14, color=colour, alpha=0.4, linewidths=0
            )
            axes.errorbar(
                mean,
                place,
                xerr=deviation(values),
                color=colour,
                marker="o",
                markersize=5,
                capsize=3,
            )
            if not place:
                axes.axvline(mean, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{score.axis}: seeds, mean, sample standard deviation")
    return figure
