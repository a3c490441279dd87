"""Early exit of many examples, in full batches.

    run = Batched(split_outputs(trace(fn, params, *inputs)), CRITERIA["patience"], (8, 16, 32))
    exited, calls = run(params, 2, *inputs)       any number of examples, of one shape

Behind each exit is a *pool* of the examples that went on. A segment is run when its pool has a full
batch, so that batches stay full whoever leaves: the deepest such first, else new examples come in;
at the end the pools are emptied from the first to the last, in the sizes that pad least. One
compiled call takes a batch out of a pool, runs the segment, asks the criterion and puts those who
go on into the next pool; the host reads who left, one bool an example, and nothing else until the
end. All shapes are static: one program for each segment (those alike share one) and batch size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.dynamic.alike import signature
from slim.dynamic.criteria import Criterion
from slim.dynamic.simulate import Exited
from slim.graph import Segment, Segments

PyTree = Any


class Call(NamedTuple):
    """One run of a segment: which, at which batch size, with how many examples in it."""

    segment: int
    size: int
    examples: int


class Pool(NamedTuple):
    """Examples that wait; rows beyond those in use hold anything.

    Attributes:
        carried: what crosses into the segment, with more rows.
        state: the criterion's.
    """

    carried: tuple[Any, ...]
    state: PyTree


@dataclass(frozen=True, eq=False)
class Batched:
    """Early exit by a criterion, in batches re-packed after every exit.

    Examples must not depend on one another (no batch statistics of their own batch). Programs are
    compiled when first run, and kept.

    Attributes:
        segments: `split_outputs` of a function that gives the logits of each exit.
        criterion: when an example leaves.
        sizes: of batches, ascending; pools are run at the last, the others empty them at the end.

    Raises:
        ValueError: sizes that are not ascending from 1 or more.
    """

    segments: Segments
    criterion: Criterion
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    _kept: dict[Any, "_Programs"] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes = {self.sizes}: give ascending batch sizes of 1 or more")

    def __call__(
        self, params: PyTree, setting: PyTree, *inputs: Any
    ) -> tuple[Exited, tuple[Call, ...]]:
        """Every example's exit and logits, as NumPy arrays, and what was run for them.

        Args:
            params: of the function.
            setting: of the criterion.
            inputs: arrays with the examples first, as many as there are.

        Raises:
            ValueError: inputs with unequal numbers of examples, or none; something crosses a cut
                that is made of inputs and has no dimension of the batch.
        """
        queue = self._queue(params, setting, [np.asarray(each) for each in inputs])
        while (call := queue.next_call()) is not None:
            queue.run(call)
        return queue.exited(), tuple(queue.calls)

    def compile(self, params: PyTree, setting: PyTree, *inputs: Any) -> None:
        """Run every program once, on the first of these examples: none is compiled later."""
        for size in self.sizes:
            like = [np.asarray(each)[:1].repeat(size, 0) for each in inputs]
            queue = self._queue(params, setting, like)
            for segment in range(len(self.segments.names)):
                queue.waiting[segment] = np.arange(size)
                queue.run(Call(segment, size, size))

    def _queue(self, params: PyTree, setting: PyTree, inputs: list[np.ndarray]) -> "_Queue":
        counts = [len(each) if each.ndim else None for each in inputs]
        if not counts or len(set(counts)) > 1 or not counts[0]:
            raise ValueError(
                f"inputs of shapes {[each.shape for each in inputs]}: the first dimension must be "
                "the number of examples, equal and at least 1"
            )
        setting = jax.tree.map(jnp.asarray, setting)
        key = tuple((each.shape[1:], str(each.dtype)) for each in inputs)
        if key not in self._kept:
            self._kept[key] = _programs(self, params, inputs)
        programs, given = self._kept[key], paths.flatten(params)
        own = [part.own(given) for part in programs.parts]
        pools = [None, *programs.pools(setting)]
        waiting = [np.arange(counts[0]), *(np.arange(0) for _ in programs.parts[1:])]
        return _Queue(programs, self.sizes, own, setting, inputs, pools, waiting)


class _Programs(NamedTuple):
    """What is compiled for inputs of one shape.

    Attributes:
        parts: the segments, at the largest size.
        enter: (setting, numbers of examples) -> the criterion's state.
        pools: setting -> an empty pool before each segment but the first.
        steps: by segment and size; see `_step`.
    """

    parts: tuple[Segment, ...]
    enter: Callable[..., PyTree]
    pools: Callable[[PyTree], list[Pool]]
    steps: Mapping[tuple[int, int], Callable[..., Any]]


def _programs(batched: Batched, params: PyTree, inputs: Sequence[np.ndarray]) -> _Programs:
    def at(size: int) -> tuple[Segment, ...]:
        like = [jax.ShapeDtypeStruct((size, *each.shape[1:]), each.dtype) for each in inputs]
        return batched.segments.at(params, *like)

    criterion, full = batched.criterion, batched.sizes[-1]
    parts, more = at(full), at(full + 1)
    axes = [*map(_axes, parts, more), ()]
    last = len(parts) - 1

    @jax.jit
    def pools(setting: PyTree) -> list[Pool]:
        # A pool has less than a full batch when up to a full batch is added.
        rows = 2 * full
        state = criterion.init(setting, jnp.zeros(rows, jnp.int32))
        return [
            Pool(
                tuple(
                    jnp.zeros((*x.shape[:axis], rows, *x.shape[axis + 1 :]), x.dtype)
                    for x, axis in zip(part.takes, axes[i], strict=True)
                ),
                state,
            )
            for i, part in enumerate(parts)
            if i > 0
        ]

    steps: dict[tuple[int, int], Callable[..., Any]] = {}
    for size in batched.sizes:
        known: dict[Any, Callable[..., Any]] = {}
        for i, part in enumerate(at(size)):
            key = signature(part), axes[i], axes[i + 1], i == last
            if key not in known:
                known[key] = _step(part, criterion, size, axes[i], axes[i + 1], i == last)
            steps[i, size] = known[key]
    return _Programs(parts, jax.jit(criterion.init), pools, steps)


def _axes(part: Segment, more: Segment) -> tuple[int, ...]:
    """The batch's dimension of all that a segment takes, from it at two batch sizes."""
    axes = []
    for a, b in zip(part.takes, more.takes, strict=True):
        differ = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        if len(differ) != 1 or b.shape[differ[0]] != a.shape[differ[0]] + 1:
            raise ValueError(
                f"a {a.dtype}{list(a.shape)} crosses into segment {part.name!r} that is made of "
                "inputs, but has no dimension of the batch: examples in it cannot be re-packed; "
                "bind what all examples share as a constant or a parameter"
            )
        axes.append(differ[0])
    return tuple(axes)


def _step(
    part: Segment,
    criterion: Criterion,
    size: int,
    takes: Sequence[int],
    gives: Sequence[int],
    last: bool,
) -> Callable[..., Any]:
    """The program of a segment at one size.

    Of the `size` rows of a pool from `start`, of which `examples` are in use, it gives the logits
    and who leaves, and puts the others into the next pool at row `at`; the last has no next pool.
    `takes` and `gives` are the dimensions of the batch in what crosses.
    """

    def run(
        own: Sequence[Any],
        setting: PyTree,
        pool: Pool,
        start: jax.Array,
        examples: jax.Array,
        into: Any,
        at: jax.Array,
    ) -> tuple[jax.Array, jax.Array, Any]:
        def rows(x: Any, axis: int) -> Any:
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

        logits, carried = part.run(own, tuple(map(rows, pool.carried, takes)))
        if last:
            return logits, jnp.ones(size, bool), into
        state = jax.tree.map(lambda x: rows(x, 0), pool.state)
        state, leave = criterion.step(setting, state, logits)
        leave |= jnp.arange(size) >= examples
        # Those who go on come first, in their order.
        order = jnp.argsort(leave, stable=True)

        def put(into: Any, x: Any, axis: int) -> Any:
            packed = jnp.take(x, order, axis, mode="clip")
            return jax.lax.dynamic_update_slice_in_dim(into, packed, at, axis)

        following = Pool(
            tuple(map(put, into.carried, carried, gives)),
            jax.tree.map(lambda into, x: put(into, x, 0), into.state, state),
        )
        return logits, leave, following

    return jax.jit(run, donate_argnums=5)


@dataclass
class _Queue:
    """Examples on their way, on the host.

    Attributes:
        programs: what is compiled.
        sizes: of batches.
        own: each segment's parameters.
        setting: the criterion's.
        inputs: of all examples.
        pools: before each segment; before the first there are the inputs.
        waiting: the numbers of the examples in each pool.
        calls: what was run.
        left: of each call the segment, the numbers of those who left, their rows, and the logits.
    """

    programs: _Programs
    sizes: Sequence[int]
    own: Sequence[Sequence[Any]]
    setting: PyTree
    inputs: Sequence[np.ndarray]
    pools: list[Any]
    waiting: list[np.ndarray]
    calls: list[Call] = field(default_factory=list)
    left: list[tuple[int, np.ndarray, np.ndarray, jax.Array]] = field(default_factory=list)

    def next_call(self) -> Call | None:
        """The deepest full batch; without one what enters; without that the first pool's."""
        counts = [len(each) for each in self.waiting]
        full = [i for i, count in enumerate(counts) if count >= self.sizes[-1]]
        some = [i for i, count in enumerate(counts) if count]
        if not some:
            return None
        segment = full[-1] if full else some[0]
        size = fitting(counts[segment], self.sizes)
        return Call(segment, size, min(size, counts[segment]))

    def run(self, call: Call) -> None:
        """Run a segment on examples that wait for it."""
        i, size, count = call
        waiting = self.waiting[i]
        if i == 0:
            # In their order; padded with the last of them.
            numbers, self.waiting[0] = waiting[:count], waiting[count:]
            padded = np.pad(numbers, (0, size - count), mode="edge")
            state = self.programs.enter(self.setting, padded.astype(np.int32))
            pool, start = Pool(tuple(each[padded] for each in self.inputs), state), 0
        else:
            # From the end, so that the rest stays where it is.
            start = len(waiting) - count
            numbers, self.waiting[i] = waiting[start:], waiting[:start]
            pool = self.pools[i]
        last = i + 1 == len(self.pools)
        logits, leave, following = self.programs.steps[i, size](
            self.own[i],
            self.setting,
            pool,
            np.int32(start),
            np.int32(count),
            None if last else self.pools[i + 1],
            np.int32(0 if last else len(self.waiting[i + 1])),
        )
        gone = np.ones(count, bool) if last else np.asarray(leave)[:count]
        if not last:
            self.pools[i + 1] = following
            self.waiting[i + 1] = np.concatenate([self.waiting[i + 1], numbers[~gone]])
        self.calls.append(call)
        self.left.append((i, numbers[gone], np.flatnonzero(gone), logits))

    def exited(self) -> Exited:
        """Every example's exit and logits."""
        count = len(self.inputs[0])
        like = self.left[0][3]
        exits = np.zeros(count, np.int32)
        logits = np.zeros((count, *like.shape[1:]), like.dtype)
        for segment, numbers, rows, values in self.left:
            exits[numbers] = segment
            logits[numbers] = np.asarray(values)[rows]
        return Exited(exits, logits)


def fitting(count: int, sizes: Sequence[int]) -> int:
    """The batch size to run at with `count` examples waiting.

    The largest that they fill; or the next, if at most a quarter of that is padding.

    >>> [fitting(count, (1, 2, 4, 8)) for count in (1, 3, 5, 6, 100)]
    [1, 4, 4, 8, 8]
    """
    filled = [size for size in sizes if size <= count]
    above = [size for size in sizes if size >= count]
    if above and (not filled or 4 * count >= 3 * above[0]):
        return above[0]
    return filled[-1]
