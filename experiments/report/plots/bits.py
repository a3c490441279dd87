"""Mixed precision: the bits of every layer, and the front of cost against what it loses."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.report.bits import Mixed
from experiments.report.plots.style import BLUE, INK, QUIET, RED, style

ROW = 0.17  # inches that a site takes
AROUND = 0.9  # inches above and below the sites
WIDEST = "#e4e4e4"
LOGARITHMIC_FROM = 20  # times between the least and the greatest loss

COSTS: dict[str, tuple[str, float]] = {
    "bytes": ("Weights (KiB)", 2**10),
    "bit_operations": ("Bit operations (millions)", 1e6),
    "latency": ("Sum of the sites' latencies (ms)", 1e-3),
}
EFFECTS = {
    "kl": "Foretold KL divergence (nats)",
    "loss": "Foretold rise of the loss (nats)",
}


def bits_figure(mixed: Mixed) -> Figure:
    """A row for each site with weights: their bits and bytes, over those of its widest format."""
    chosen = {site: each for site, each in mixed.chosen.items() if each.bits is not None}
    widest = [max(mixed.sites[site].values(), key=lambda each: each.bits or 0) for site in chosen]
    with style():
        figure = Figure(
            figsize=(8, AROUND + ROW * len(chosen)), layout=ConstrainedLayoutEngine(wspace=0.03)
        )
        left, right = figure.subplots(1, 2, sharey=True)
        _bars(
            left,
            [each.bits or 0 for each in widest],
            [each.bits or 0 for each in chosen.values()],
            "{:.0f}".format,
        )
        _bars(
            right,
            [each.bytes / 1024 for each in widest],
            [each.bytes / 1024 for each in chosen.values()],
            "{:.3g}".format,
        )
        left.set_xlabel("Bits of a weight (grey: the most it might have)")
        right.set_xlabel("Weights with their scales (KiB)")
        names = [name.removeprefix("params/").removesuffix("/kernel") for name in chosen]
        left.set_yticks(range(len(names)), names, fontsize=7)
        left.set_ylim(len(names) - 0.4, -0.6)
        right.tick_params(axis="y", labelleft=False)
    return figure


def _bars(
    axes: Axes, widest: Sequence[float], chosen: Sequence[float], text: Callable[[float], str]
) -> None:
    rows = range(len(chosen))
    axes.barh(rows, widest, height=0.72, color=WIDEST)
    axes.barh(rows, chosen, height=0.72, color=BLUE)
    room = 0.01 * max(widest)
    for row, (value, whole) in enumerate(zip(chosen, widest, strict=True)):
        axes.text(
            max(value, whole) + room, row, text(value), fontsize=6, color=INK, va="center_baseline"
        )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.08 * max(widest))


def pareto_figure(mixed: Mixed) -> Figure:
    """The least foretold loss for every cost; the chosen formats in red, their limit dashed."""
    title, unit = COSTS[mixed.budget]
    points = sorted({(each.cost / unit, each.loss) for each in (*mixed.front, mixed.best)})
    costs, losses = zip(*points, strict=True)
    best, limit = (mixed.best.cost / unit, mixed.best.loss), mixed.limit / unit
    with style():
        figure = Figure(figsize=(5.5, 3.4), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        axes.plot(
            costs, losses, color=BLUE, marker="o", markersize=4, drawstyle="steps-post", zorder=2
        )
        axes.axvline(limit, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.scatter(*best, s=52, color=RED, edgecolors="white", linewidths=0.8, zorder=3)
        axes.annotate(
            f"chosen: {mixed.best.cost / mixed.widest:.1%} of the widest", best, xytext=(8, 8),
            textcoords="offset points", fontsize=8, color=RED,
        )  # fmt: skip
        axes.set_xlabel(title)
        axes.set_ylabel(EFFECTS[mixed.by])
        if max(losses) > LOGARITHMIC_FROM * min(losses) > 0:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    return figure
