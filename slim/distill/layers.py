"""Layer maps: which layer of the teacher each layer of the student learns from.

    layer_map = LAYER_MAPS["uniform"](3, 6)
    params = layer_map.init()
    layer_loss(layer_map, params, LOSSES["l2"].value, student_layers, teacher_layers)

Layers count from 0. Embeddings are no layer: their loss is a term of its own. A new map is a
function (student depth, teacher depth) -> `LayerMap` and its place in `LAYER_MAPS`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class LayerMap(NamedTuple):
    """Pairs of layers and the weight of each.

    Attributes:
        pairs: (student layer, teacher layer), from 0.
        init: () -> parameters to be trained beside the student's; `()` if there are none.
        weights: parameters -> a weight for each pair, float32; 1 in all for a student layer.
    """

    pairs: tuple[tuple[int, int], ...]
    init: Callable[[], PyTree]
    weights: Callable[[PyTree], jax.Array]


def fixed(pairs: Sequence[tuple[int, int]], student_depth: int, teacher_depth: int) -> LayerMap:
    """The given pairs; a student layer in several of them learns from all alike.

    Raises:
        ValueError: no pairs; layers out of range.

    >>> fixed([(0, 2), (1, 5)], 2, 6).pairs
    ((0, 2), (1, 5))
    """
    pairs = tuple((int(student), int(teacher)) for student, teacher in pairs)
    _check(pairs, student_depth, teacher_depth)
    learners = [student for student, _ in pairs]
    shares = [1 / learners.count(student) for student in learners]
    return LayerMap(pairs, init=lambda: (), weights=lambda params: jnp.array(shares, jnp.float32))


def uniform(student_depth: int, teacher_depth: int) -> LayerMap:
    """Layer m of M learns from layer floor(m N / M) of N, counted from 1: the last from the last.

    TinyBERT's map (Jiao et al. 2020, arXiv:1909.10351).

    Raises:
        ValueError: a student deeper than its teacher.

    >>> uniform(3, 6).pairs
    ((0, 1), (1, 3), (2, 5))
    """
    _check_depths(student_depth, teacher_depth)
    pairs = [(m - 1, m * teacher_depth // student_depth - 1) for m in range(1, student_depth + 1)]
    return fixed(pairs, student_depth, teacher_depth)


def last(student_depth: int, teacher_depth: int, *, count: int | None = None) -> LayerMap:
    """The student's last `count` layers, all by default, learn from as many last of the teacher.

    After PKD-Last (Sun et al. 2019, arXiv:1908.09355), which leaves the final layers to the loss of
    predictions; `count=1` is MiniLM's (Wang et al. 2020, arXiv:2002.10957).

    Raises:
        ValueError: a student deeper than its teacher; a count outside [1, student depth].

    >>> last(3, 6).pairs, last(3, 6, count=1).pairs
    (((0, 3), (1, 4), (2, 5)), ((2, 5),))
    """
    _check_depths(student_depth, teacher_depth)
    count = student_depth if count is None else count
    if not 1 <= count <= student_depth:
        raise ValueError(f"count = {count}: must be in [1, {student_depth}], the student's depth")
    pairs = [(student_depth - i, teacher_depth - i) for i in range(count, 0, -1)]
    return fixed(pairs, student_depth, teacher_depth)


def learned(student_depth: int, teacher_depth: int) -> LayerMap:
    """Every layer from every layer, by softmax weights a student layer that training moves.

    Parameters are `(student depth, teacher depth)`, 0 at first: equal weights. The loss alone moves
    a weight to the teacher layers that are easiest to match, not to those that teach most: give
    them a smaller learning rate than the student's.

    Raises:
        ValueError: a depth below 1.

    >>> learned(2, 4).weights(learned(2, 4).init()).reshape(2, 4)[0]
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    pairs = tuple((m, n) for m in range(student_depth) for n in range(teacher_depth))
    _check(pairs, student_depth, teacher_depth)
    return LayerMap(
        pairs,
        init=lambda: jnp.zeros((student_depth, teacher_depth)),
        weights=lambda params: jax.nn.softmax(params, axis=-1).reshape(-1),
    )


def layer_loss(
    layer_map: LayerMap,
    params: PyTree,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    student: Sequence[jax.Array],
    teacher: Sequence[jax.Array],
) -> jax.Array:
    """Sum over the map's pairs of weight times loss(student layer, teacher layer): float32, ().

    Args:
        layer_map: from `LAYER_MAPS`, or `fixed`.
        params: of the map, from `init`.
        loss: of two layers' values, such as `LOSSES["l2"].value` with its settings bound.
        student: the value at each layer, projected where the teacher's is of another width.
        teacher: the same.

    Raises:
        ValueError: a map of layers that are not there.
    """
    _check(layer_map.pairs, len(student), len(teacher))
    losses = [loss(student[m], teacher[n]) for m, n in layer_map.pairs]
    return jnp.dot(layer_map.weights(params), jnp.stack(losses), precision="highest")


def _check_depths(student_depth: int, teacher_depth: int) -> None:
    if not 1 <= student_depth <= teacher_depth:
        raise ValueError(
            f"student of {student_depth} layers, teacher of {teacher_depth}: need 1 <= student <= "
            "teacher; name the pairs with `fixed` for other maps"
        )


def _check(pairs: Sequence[tuple[int, int]], student_depth: int, teacher_depth: int) -> None:
    outside = [(m, n) for m, n in pairs if not (0 <= m < student_depth and 0 <= n < teacher_depth)]
    if outside or not pairs:
        raise ValueError(
            f"layer map {list(pairs)}: {outside or 'no pair'} out of range; need pairs (student "
            f"layer in [0, {student_depth}), teacher layer in [0, {teacher_depth}))"
        )


LAYER_MAPS: dict[str, Callable[..., LayerMap]] = {
    "uniform": uniform,
    "last": last,
    "learned": learned,
}
