"""Early exit of one example inside one compiled program, which runs no further than it must.

    fn = conditional(split_outputs(graph), CRITERIA["confidence"])
    exited = jax.jit(fn)(params, 0.9, *inputs)

    looped = Looped(split_outputs(graph), CRITERIA["confidence"])
    exited = jax.jit(looped)(looped.pack(params, *inputs), 0.9, *inputs)

Of a batch each example leaves where it would by itself, and segments are run while one is left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim import paths
from slim.dynamic.alike import longest_run, signature
from slim.dynamic.criteria import Criterion
from slim.dynamic.simulate import Exited, Passing, first_exit, next_exit
from slim.graph import Segment, Segments

PyTree = Any
Carried = tuple[jax.Array, ...]
Stage = Callable[[Passing, Carried], tuple[Passing, Carried]]


def conditional(segments: Segments, criterion: Criterion) -> Callable[..., Exited]:
    """`fn(params, setting, *inputs)`: each segment but the first behind a `lax.cond`.

    Any segments; the program is as long as the whole network's.
    """

    def fn(params: PyTree, setting: PyTree, *inputs: Any) -> Exited:
        given = paths.flatten(params)
        first, *rest = segments.at(params, *inputs)
        stages = [_stage(part, part.own(given), criterion, setting) for part in rest]
        begin = _begin(first, given, criterion, setting, segments.enter(*inputs))
        return _chain(stages, *begin).exited

    return fn


def _begin(
    part: Segment, given: Mapping[str, Any], criterion: Criterion, setting: PyTree, carried: Carried
) -> tuple[Passing, Carried]:
    """The first segment, which everyone needs."""
    logits, carried = part.run(part.own(given), carried)
    numbers = jnp.arange(logits.shape[0], dtype=jnp.int32)
    return first_exit(criterion, setting, numbers, logits), carried


def _stage(part: Segment, own: Sequence[Any], criterion: Criterion, setting: PyTree) -> Stage:
    def run(passing: Passing, carried: Carried) -> tuple[Passing, Carried]:
        logits, carried = part.run(own, carried)
        return next_exit(criterion, setting, passing, logits), carried

    return run


def _chain(stages: Sequence[Stage], passing: Passing, carried: Carried) -> Passing:
    """The stages, each only if someone is left."""
    if not stages:
        return passing
    stage, *rest = stages
    return jax.lax.cond(
        passing.gone.all(), lambda: passing, lambda: _chain(rest, *stage(passing, carried))
    )


class Packed(NamedTuple):
    """Parameters as `Looped` takes them.

    Attributes:
        stacked: those of the segments in the loop, one array for each of a segment's.
        given: the others, by path.
    """

    stacked: list[jax.Array]
    given: dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Looped:
    """The segments that are alike as one `lax.while_loop` over their stacked parameters.

    The others are behind `lax.cond`s before and after it. The program is as long as the different
    segments are, whatever the depth; each round reads its parameters out of the stack, which
    `conditional` does not.

    Attributes:
        segments: of which at least two neighbours do the same with other parameters.
        criterion: when an example leaves.
    """

    segments: Segments
    criterion: Criterion

    def pack(self, params: PyTree, *inputs: Any) -> Packed:
        """The parameters of the function, those in the loop stacked.

        Args:
            params: of the function, of the types that it was traced with.
            inputs: or their shapes.

        Raises:
            ValueError: no two neighbours are alike.
        """
        given, parts = paths.flatten(params), self.segments.at(params, *inputs)
        start, end = self._stretch(parts)
        rows = zip(*(part.own(given) for part in parts[start:end]), strict=True)
        outside = {path for part in (*parts[:start], *parts[end:]) for path in part.params}
        return Packed([jnp.stack(row) for row in rows], {path: given[path] for path in outside})

    def __call__(self, packed: Packed, setting: PyTree, *inputs: Any) -> Exited:
        """Every example's exit and logits; see `conditional`."""
        given, parts = packed.given, self.segments.at(packed.given, *inputs)
        start, end = self._stretch(parts)
        count = end - start

        def loop(passing: Passing, carried: Carried) -> tuple[Passing, Carried]:
            def go_on(carry: tuple[Any, Passing, Carried]) -> Any:
                return (carry[0] < count) & ~carry[1].gone.all()

            def once(carry: tuple[Any, Passing, Carried]) -> tuple[Any, Passing, Carried]:
                own = [stack[carry[0]] for stack in packed.stacked]
                stage = _stage(parts[start], own, self.criterion, setting)
                return carry[0] + 1, *stage(*carry[1:])

            return jax.lax.while_loop(go_on, once, (jnp.int32(0), passing, carried))[1:]

        def stages(some: Sequence[Segment]) -> list[Stage]:
            return [_stage(part, part.own(given), self.criterion, setting) for part in some]

        begin = _begin(parts[0], given, self.criterion, setting, self.segments.enter(*inputs))
        every = [*stages(parts[1:start]), loop, *stages(parts[end:])]
        return _chain(every, *begin).exited

    def _stretch(self, parts: Sequence[Segment]) -> tuple[int, int]:
        """The first and the end of those in the loop, of all after the first segment."""
        start, end = longest_run([signature(part) for part in parts[1:]])
        if end - start < 2:
            raise ValueError(
                f"of the segments {', '.join(self.segments.names)} no two neighbours after the "
                "first do the same with other parameters; use `conditional`"
            )
        return start + 1, end + 1
