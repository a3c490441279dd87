"""What a rule of pass three gets: which indices a plan keeps."""

from collections.abc import Mapping

import numpy as np

from slim.graph.axes import Axis, Dims, Leaf


class Kept:
    """Which indices of each axis a plan keeps."""

    def __init__(self, of_leaf: Mapping[Leaf, np.ndarray]) -> None:
        self._of_leaf = of_leaf
        self._cache: dict[Axis, np.ndarray | None] = {}

    def __call__(self, axis: Axis) -> np.ndarray | None:
        """The kept indices of `axis`, ascending; None where all are kept."""
        axis = axis.find()
        if axis not in self._cache:
            self._cache[axis] = self._compute(axis)
        return self._cache[axis]

    def _compute(self, axis: Axis) -> np.ndarray | None:
        if axis.kind == "atom":
            return self._of_leaf.get(axis)
        parts = [self(part) for part in axis.parts]
        if all(part is None for part in parts):
            return None
        full = [
            np.arange(part.size) if kept is None else kept
            for part, kept in zip(axis.parts, parts, strict=True)
        ]
        if axis.kind == "sum":
            starts = np.cumsum([0] + [part.size for part in axis.parts[:-1]])
            return np.concatenate([start + kept for start, kept in zip(starts, full, strict=True)])
        out = full[0]
        for part, kept in zip(axis.parts[1:], full[1:], strict=True):
            out = (out[:, None] * part.size + kept).reshape(-1)
        return out

    def size(self, axis: Axis) -> int:
        """How many indices of `axis` are kept."""
        kept = self(axis)
        return axis.find().size if kept is None else len(kept)

    def shape(self, dims: Dims) -> tuple[int, ...]:
        """The shape of a value of these axes after the cut."""
        return tuple(self.size(axis) for axis in dims)

    def below(self, axis: Axis, index: int) -> int:
        """How many of the first `index` indices of `axis` are kept."""
        kept = self(axis)
        return index if kept is None else int(np.searchsorted(kept, index))

    def cuts(self, dims: Dims) -> bool:
        """Whether a value of these axes loses any entry."""
        return any(self(axis) is not None for axis in dims)
