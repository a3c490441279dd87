"""What all pictures share: one font, quiet axes, and a colour for each role."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#333333"
QUIET = "#8a8a8a"
BLUE = "#2f6f9f"
RED = "#c8553d"

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aaaaaa",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 160,
    "savefig.dpi": 160,
}


def style() -> AbstractContextManager[None]:
    """The settings, for as long as a figure is made and drawn."""
    return matplotlib.rc_context(_SETTINGS)


def wide_figure() -> Figure:
    """A figure as wide as a page, for panels side by side; made under `style`."""
    return Figure(figsize=(10, 3.4), layout=ConstrainedLayoutEngine(wspace=0.06, w_pad=0.06))
