"""The terms of a distillation, resolved against the two graphs: which values, in which pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.schema import ConfigError, refused
from experiments.stages.distillation.config import TermConfig
from slim.distill import LAYER_MAPS, LOSSES, LayerMap, init_projection, layer_loss, project, top_k
from slim.graph import Graph, Tap, match, taps

PyTree = Any
Values = Mapping[str, jax.Array]

LOGITS = "logits"


@dataclass(frozen=True)
class Term:
    """One comparison.

    Attributes:
        name: in logs, and of its parameters.
        config: as it was asked for.
        student: the taps that the student's values are had at; () for logits.
        teacher: likewise of the teacher.
        layer_map: which is compared with which.
        widths: by pair of layers, the shapes of values that a projection makes alike.
    """

    name: str
    config: TermConfig
    student: tuple[Tap, ...]
    teacher: tuple[Tap, ...]
    layer_map: LayerMap
    widths: Mapping[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]]

    def init(self, key: jax.Array) -> PyTree:
        """Parameters that are trained beside the student's; {} if there are none."""
        params: dict[str, Any] = {}
        if jax.tree.leaves(weights := self.layer_map.init()):
            params["layers"] = weights
        for i, (pair, shapes) in enumerate(sorted(self.widths.items())):
            projection = init_projection(jax.random.fold_in(key, i), *shapes)
            params.setdefault("projections", {})[_pair_name(pair)] = projection
        return params

    def described(self, m: int, n: int) -> str:
        """Which value of the student is compared with which of the teacher, for people."""
        mine, theirs = (
            [name for tap in found for name in [tap.name] * len(_shapes(tap))]
            for found in (self.student, self.teacher)
        )
        projected = ", projected" if (m, n) in self.widths else ""
        return f"{mine[m]} from {theirs[n]}{projected}"

    def value(
        self,
        params: PyTree,
        student: Values,
        teacher: Values,
        *,
        temperature: jax.Array,
        labels: jax.Array,
        real: jax.Array | None,
    ) -> jax.Array:
        """The loss, without its weight.

        Args:
            params: of `init`, moved by training.
            student: values by tap, and the logits.
            teacher: likewise.
            temperature: that softens predictions.
            labels: (batch,).
            real: (batch, length), False where a text has ended; None of images.
        """
        loss = LOSSES[self.config.loss]
        given = {"temperature": temperature, "labels": labels}
        settings = {
            **{name: value for name, value in given.items() if name in loss.settings},
            **self.config.settings,
        }
        if not self.student:
            taught: Any = teacher[LOGITS]
            if "top_k" in loss.compares:
                taught = top_k(taught, self.config.k, temperature)
            return loss.value(student[LOGITS], taught, **settings)

        def compare(pair: tuple[int, jax.Array], other: tuple[int, jax.Array]) -> jax.Array:
            (m, mine), (n, theirs) = pair, other
            if (m, n) in self.widths:
                mine = project(params["projections"][_pair_name((m, n))], mine)
            mask = {"mask": real} if _covers(real, mine) and "mask" in loss.settings else {}
            return loss.value(mine, theirs, **settings, **mask)

        mine = list(enumerate(_layers(student, self.student)))
        theirs = list(enumerate(_layers(teacher, self.teacher)))
        weights = params.get("layers", ())
        return layer_loss(self.layer_map, weights, compare, mine, theirs)  # type: ignore[arg-type]


def resolve(
    configs: Sequence[TermConfig], student: Graph, teacher: Graph, field: str
) -> tuple[Term, ...]:
    """The terms, with the taps that their patterns match.

    Args:
        configs: as they were asked for.
        student: what is trained.
        teacher: its evaluation.
        field: where the terms stand in the config.

    Raises:
        ConfigError: a pattern that matches nothing, layers or shapes that do not fit.
    """
    terms: list[Term] = []
    for i, config in enumerate(configs):
        where = f"{field}[{i}]"
        count = sum(term.config.loss == config.loss for term in terms)
        name = config.loss if not count else f"{config.loss}_{count + 1}"
        with refused(where):
            mine = _found(student, config.taps, config)
            theirs = _found(teacher, config.teacher_taps or config.taps, config)
            shapes, others = (
                [shape for tap in found for shape in _shapes(tap)] for found in (mine, theirs)
            )
            layer_map = LAYER_MAPS[config.layers](len(shapes) or 1, len(others) or 1)
            widths = {}
            for m, n in layer_map.pairs if shapes else ():
                if _same_but_width(shapes[m], others[n]) and config.loss in ("l2", "cosine"):
                    widths[m, n] = shapes[m], others[n]
            if widths and not config.project:
                (m, n), (one, other) = next(iter(widths.items()))
                raise ValueError(
                    f"{config.loss} of values of width {one[-1]} (student) and {other[-1]} "
                    "(teacher); set project = True to train a projection, or choose other taps"
                )
        terms.append(Term(name, config, mine, theirs, layer_map, widths))
    return tuple(terms)


def check(terms: Iterable[Term], student: Graph, teacher: Graph, field: str) -> None:
    """Refuses terms whose losses do not take the values, before anything is computed.

    Raises:
        ConfigError: naming the term, the loss and both shapes.
    """
    logits = [jax.tree.leaves(graph.outputs)[0] for graph in (student, teacher)]
    if logits[0].shape != logits[1].shape:
        raise ConfigError(
            f"{field}: the student has {logits[0].shape[-1]} classes and the teacher "
            f"{logits[1].shape[-1]}: they must have the same labels"
        )
    for i, term in enumerate(terms):
        values = [
            {LOGITS: logit, **{t.name: jax.ShapeDtypeStruct(t.shape, t.dtype) for t in found}}
            for logit, found in zip(logits, (term.student, term.teacher), strict=True)
        ]
        with refused(f"{field}[{i}]"):
            jax.eval_shape(
                lambda params, student, teacher, term=term: term.value(
                    params,
                    student,
                    teacher,
                    temperature=jnp.float32(1),
                    labels=jnp.zeros(logits[0].shape[0], jnp.int32),
                    real=None,
                ),
                jax.eval_shape(term.init, jax.random.key(0)),
                *values,
            )


def _found(graph: Graph, patterns: Sequence[str], config: TermConfig) -> tuple[Tap, ...]:
    known = taps(graph)
    names = [name for pattern in patterns for name in match(graph, pattern)]
    stop = None if config.count is None else config.skip + config.count
    found = tuple(known[name] for name in names[config.skip : stop])
    if patterns and not found:
        raise ValueError(
            f"skip = {config.skip}: leaves none of the {len(names)} values that match {patterns}"
        )
    return found


def _shapes(tap: Tap) -> list[tuple[int, ...]]:
    """Of a value in each round of the scan that it is in, or of the one that there is."""
    if len(tap.loops) > 1:
        raise ValueError(f"tap {tap.name!r} is in scans inside scans; choose one outside of them")
    return [tap.shape[1:]] * tap.loops[0] if tap.loops else [tap.shape]


def _layers(values: Values, found: Iterable[Tap]) -> list[jax.Array]:
    """The values at taps, one a layer: of a scan over layers one for each round."""
    return [
        value
        for tap in found
        for value in (list(values[tap.name]) if tap.loops else [values[tap.name]])
    ]


def _same_but_width(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) > 1 and one[1:-1] == other[1:-1] and one[-1] != other[-1]


def _covers(real: jax.Array | None, value: jax.Array) -> bool:
    """Whether a mask of tokens is one of this value's: of states, or of attention matrices."""
    if real is None:
        return False
    (batch, length), shape = real.shape, value.shape
    of_states = shape[:2] == (batch, length) and len(shape) == 3
    return of_states or (len(shape) == 4 and shape[0] == batch and shape[2:] == (length, length))


def _pair_name(pair: tuple[int, int]) -> str:
    return f"{pair[0]}_{pair[1]}"
