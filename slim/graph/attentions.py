"""Attentions: softmaxes of a product of two activations that go into another such product.

Between the first product and the softmax anything may be that goes entry by entry or changes the
layout: scale, bias, mask, cast; so may it between the softmax and the second (dropout). Online
softmaxes, which never have the whole matrix, are not found.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from slim.graph.cost import CONTRACTIONS
from slim.graph.flat import Operand, Step
from slim.graph.origins import LAYOUT
from slim.graph.primitives import ELEMENTWISE, names
from slim.graph.sites import contracted
from slim.graph.values import Values


class Attention(NamedTuple):
    """One attention.

    Attributes:
        name: what the paths of the parameters have in common that make its queries and keys; of one
            parameter that makes both, its path without the last part; else `attention`. The second
            use of a name ends in `#2`.
        scores: the value that goes into the softmax.
        weights: the value that comes out, probabilities along the last dimension.
        step: the softmax's last.
    """

    name: str
    scores: int
    weights: int
    step: Step


_MASKS = LAYOUT | names("max mul select_n")
_EACH = ELEMENTWISE | LAYOUT | names("concatenate pad")


def attentions(values: Values) -> Iterator[Attention]:
    """The attentions of a graph in program order."""
    seen: Counter[str] = Counter()
    for step in values.steps.values():
        scores = _softmax(values, step)
        if scores is None:
            continue

        def mixes(step: Step) -> bool:
            return _sums(step) and all(values.is_activation(each) for each in step.ins[:2])

        product = values.before(scores, _around, mixes)
        if product is None or values.after(step.outs[0], _around, mixes) is None:
            continue
        name = _name(values, product)
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}#{seen[name]}"
        yield Attention(name, scores, step.outs[0], step)


def _softmax(values: Values, step: Step) -> int | None:
    """What a step that ends a softmax, exp(x - max x) / sum of that, is the softmax of."""
    if step.eqn.primitive.name != "div":
        return None
    exp = values.before(step.ins[0], _inside, _is("exp"))
    total = values.before(step.ins[1], _inside, _is("reduce_sum"))
    if exp is None or total is None or exp is not values.before(total.ins[0], _inside, _is("exp")):
        return None
    scores: Operand = exp.ins[0]
    shift = values.producers.get(scores) if isinstance(scores, int) else None
    if shift is not None and shift.eqn.primitive.name == "sub":
        largest = values.before(shift.ins[1], _inside, _is("reduce_max"))
        scores = scores if largest is None else shift.ins[0]
    return scores if isinstance(scores, int) else None


def _sums(step: Step) -> bool:
    """Whether a step is a contraction; one over no dimension is a product entry by entry."""
    return step.eqn.primitive.name in CONTRACTIONS and bool(contracted(step.eqn)[0])


def _around(step: Step) -> bool:
    """Whether a step may be between a softmax and the products."""
    name = step.eqn.primitive.name
    return name in _EACH or (name in CONTRACTIONS and not _sums(step))


def _inside(step: Step) -> bool:
    """Whether a step may be between the parts of a softmax: a mask or a broadcast."""
    return step.eqn.primitive.name in _MASKS


def _is(name: str) -> Callable[[Step], bool]:
    return lambda step: step.eqn.primitive.name == name


def _name(values: Values, product: Step) -> str:
    """The common part of the paths of the nearest parameters behind a product's operands."""

    def has_parameter(step: Step) -> bool:
        return step.eqn.primitive.name in CONTRACTIONS and values.feeding(step) is not None

    nearest = [values.before(operand, lambda _: True, has_parameter) for operand in product.ins[:2]]
    found = {values.feeding(step) or "" for step in nearest if step is not None}
    if len(found) < 2:
        return posixpath.dirname("".join(found)) or "attention"
    return posixpath.commonpath(found) or "attention"
