"""Names beside the points of a plot, none over another.

A name stands right of its point. Points whose names would meet form a group: their names stand in
one column beside the group, in the order of the points' heights, each led to its point by a line.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

GAP = 7.0  # typographic points between a point and its name
MARKER = 9.0  # that a marker covers
LEADER = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}


class Point(NamedTuple):
    """A point with the extent of its name, in pixels."""

    x: float
    y: float
    width: float
    height: float


def label(
    axes: Axes, xy: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Writes each point's name; call it when the axes have their limits and their place."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72
    points = []
    for name, (x, y) in zip(names, axes.transData.transform(xy), strict=True):
        probe = axes.text(0, 0, name, fontsize=8)
        extent = Text.get_window_extent(probe)
        probe.remove()
        points.append(Point(float(x), float(y), extent.width, extent.height))
    boxes = place(points, axes.get_window_extent(), GAP * pixel, MARKER * pixel)
    for point, box, spot, name, colour in zip(points, boxes, xy, names, colours, strict=True):
        beside = abs((box.y0 + box.y1) / 2 - point.y) < 1 and box.x0 - point.x < 1.1 * GAP * pixel
        axes.annotate(
            name, spot, xytext=((box.x0 - point.x) / pixel, (box.y0 - point.y) / pixel),
            textcoords="offset points", fontsize=8, color=colour, ha="left", va="bottom",
            arrowprops=None if beside else LEADER | {"relpos": (float(box.x1 < point.x), 0.5)},
        )  # fmt: skip


def place(points: Sequence[Point], room: Bbox, gap: float, marker: float) -> list[Bbox]:
    """Where the names go, in pixels: within `room`, over no other name and no other's marker."""
    markers = [_square(point, marker) for point in points]
    groups = [[index] for index in range(len(points))]
    while True:
        boxes = [_column([points[i] for i in group], room, gap) for group in groups]
        met = next(
            (
                (a, b)
                for a, b in combinations(range(len(groups)), 2)
                if _meet(boxes[a], boxes[b] + [markers[i] for i in groups[b]])
                or _meet(boxes[b], [markers[i] for i in groups[a]])
            ),
            None,
        )
        if met is None:
            break
        groups[met[0]] += groups.pop(met[1])
    placed = dict(zip(chain(*groups), chain(*boxes), strict=True))
    return [placed[index] for index in range(len(points))]


def _column(group: Sequence[Point], room: Bbox, gap: float) -> list[Bbox]:
    """The names of a group above each other: on its right, or left where there is no room."""
    order = sorted(range(len(group)), key=lambda i: (group[i].y, group[i].x))
    height = sum(point.height for point in group)
    bottom = sum(point.y for point in group) / len(group) - height / 2
    bottom = max(min(bottom, room.y1 - height), room.y0)
    right = max(point.x for point in group) + gap
    fits = right + max(point.width for point in group) <= room.x1
    left = min(point.x for point in group) - gap
    boxes = {}
    for index in order:
        point = group[index]
        x = right if fits else left - point.width
        boxes[index] = Bbox.from_bounds(x, bottom, point.width, point.height)
        bottom += point.height
    return [boxes[index] for index in range(len(group))]


def _meet(boxes: Iterable[Bbox], others: Sequence[Bbox]) -> bool:
    return any(box.overlaps(other) for box in boxes for other in others)


def _square(point: Point, width: float) -> Bbox:
    return Bbox.from_bounds(point.x - width / 2, point.y - width / 2, width, width)
