"""Training curves: loss, accuracy and learning rate over the stages of a run, end to end."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report.plots.style import BLUE, QUIET, RED, style, wide_figure
from experiments.report.schema import Stage

PANELS = {
    "loss": "Loss (nats)",
    "perplexity": "Perplexity",
    "top1": "Top-1 accuracy (%)",
    "learning_rate": "Learning rate",
}
"""The scalars that are drawn, by the last part of their name: `train/loss`, `eval/top1`."""

COLOURS = {"train": QUIET, "eval": RED}
"""By the first part of a scalar's name; others are blue."""

FEW = 30  # values that are shown as points too


def training_curves(stages: Iterable[Stage]) -> Figure | None:
    """One panel a kind of scalar, a line for each group; None where no stage logged any."""
    logged = [stage for stage in stages if _kinds(stage)]
    panels = [kind for kind in PANELS if any(kind in _kinds(stage) for stage in logged)]
    if not panels:
        return None
    with style():
        figure = wide_figure()
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        names = [_panel(axes, kind, logged) for axes, kind in zip(row, panels, strict=True)]
        figure.draw_without_rendering()  # gives the names their places
        if any(_overlap(axes) for axes in names):
            for axes in names:
                axes.tick_params(axis="x", labelrotation=60)
    return figure


def _kinds(stage: Stage) -> set[str]:
    return {name.rpartition("/")[2] for name in stage.curves} & set(PANELS)


def _starts(stages: Sequence[Stage]) -> list[int]:
    """The step at which each stage begins: where the one before it ended."""
    lengths = [max(curve.steps[-1] for curve in stage.curves.values()) for stage in stages]
    return list(accumulate(lengths[:-1], initial=0))


def _panel(axes: Axes, kind: str, stages: Sequence[Stage]) -> SecondaryAxis:
    """Draws one kind of scalar over all stages; returns the axis above, with the stages' names."""
    axes.set_xlabel("Step")
    axes.set_ylabel(PANELS[kind])
    scale = 100 if kind == "top1" else 1
    drawn: dict[str, Line2D] = {}
    starts = _starts(stages)
    for stage, start in zip(stages, starts, strict=True):
        axes.axvline(start, color="#cfcfcf", linewidth=1, zorder=0)
        for name, curve in stage.curves.items():
            group, _, last = name.rpartition("/")
            if last == kind:
                few = len(curve.steps) <= FEW
                (drawn[group],) = axes.plot(
                    [start + step for step in curve.steps],
                    [scale * value for value in curve.values],
                    color=COLOURS.get(group, BLUE),
                    linewidth=1.4 if few else 0.9,
                    marker="o" if few else None,
                    markersize=3,
                    zorder=3 if few else 2,
                )
    if len(drawn) > 1:
        axes.legend(list(drawn.values()), list(drawn))
    above = axes.secondary_xaxis("top")
    above.spines["top"].set_visible(False)
    above.tick_params(length=0, labelsize=8)
    above.set_xticks(starts, [stage.name for stage in stages], ha="left", rotation_mode="anchor")
    return above


def _overlap(axes: SecondaryAxis) -> bool:
    extents = [label.get_window_extent() for label in axes.get_xticklabels()]
    return any(this.x1 > following.x0 for this, following in pairwise(extents))
