"""Reductions, running reductions, windows, sorts: what they do to axes and removed entries."""

from jax.extend.core import JaxprEqn

from slim.graph import primitives
from slim.graph.axes import Axis, Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import UNKNOWN, Known, Removed, only_zero, unknown
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Step, shape_of


def dropped(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The reduced axes go."""
    gone = set(_axes(eqn))
    out = tuple(axis for d, axis in enumerate(ins[0]) if d not in gone)
    return [out for _ in eqn.outvars]


def _axes(eqn: JaxprEqn) -> tuple[int, ...]:
    return tuple(eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"])


def _result(name: str, value: float, neutral: float) -> bool:
    """Whether a reduction of entries that all are `value` is `value`, however many they are."""
    return value == neutral or name not in ("reduce_sum", "reduce_prod", "reduce_xor")


def reduced(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Exact where the removed entries are the reduction's neutral number.

    A sum is corrected for other entries where they can be computed; what is left is frozen.
    """
    name = step.eqn.primitive.name
    neutral = primitives.REDUCTIONS[name]
    gone = _axes(step.eqn)
    for d in gone:
        for leaf in removed.alive(step.ins[0][d]):
            if known[0].get(d, leaf) == neutral:
                continue
            if name != "reduce_sum" or not removed.correct(d, leaf):
                removed.forbid(leaf, "it would lose removed entries that are not neutral to it")
    left = [d for d in range(len(step.ins[0])) if d not in gone]
    at = {
        (left.index(d), leaf): value
        for (d, leaf), value in known[0].at.items()
        if d not in gone and _result(name, value, neutral)
    }
    everywhere = known[0].everywhere
    if everywhere is not None and not _result(name, everywhere, neutral):
        everywhere = None
    return [Known(everywhere, at)]


def frozen_drop(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The reduced axes are frozen, then go."""
    operands = ins[: len(eqn.outvars)]
    for dims in operands[1:]:
        flow.unify_all(operands[0], dims)
    flow.freeze((operands[0][d] for d in _axes(eqn)), "it may pick any entry")
    return dropped(flow, eqn, ins)


def running_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Same place, same axis."""
    return [ins[0]]


def running(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Later entries see removed ones, which must be neutral."""
    neutral = primitives.CUMULATIVE[step.eqn.primitive.name]
    d = step.params["axis"]
    for leaf in removed.alive(step.ins[0][d]):
        if known[0].get(d, leaf) != neutral:
            removed.forbid(leaf, "it would lose removed entries that are not neutral to it")
    kept = {place: v for place, v in known[0].at.items() if place[0] != d and v == neutral}
    return [Known(None, kept)]


def sort_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Operands move together; the sorted axis is frozen."""
    for dims in ins[1:]:
        flow.unify_all(ins[0], dims)
    flow.freeze([ins[0][eqn.params["dimension"]]], "it reorders the entries")
    return [ins[0] for _ in eqn.outvars]


def sort_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Off the sorted axis, entries that all are one number stay so."""
    return [Known(each.everywhere, each.at) for each in known]


def top_k_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The searched axis is frozen, and so is the one of what was found."""
    d = eqn.params.get("axis", -1) % len(ins[0])
    flow.freeze([ins[0][d]], "it reorders the entries")
    found = flow.frozen(shape_of(eqn.outvars[0])[d], "it counts the entries found")
    out = (*ins[0][:d], found, *ins[0][d + 1 :])
    return [out for _ in eqn.outvars]


def top_k_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Off the searched axis, entries that all are one number stay so; their indices do not."""
    return [known[0], UNKNOWN]


def _slides(eqn: JaxprEqn, d: int) -> bool:
    params = eqn.params
    options = (
        ("window_dimensions", 1),
        ("window_strides", 1),
        ("padding", (0, 0)),
        ("base_dilation", 1),
        ("window_dilation", 1),
    )
    return any(name in params and params[name][d] != value for name, value in options)


def window_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """An axis that the window does not move along passes through; others are frozen."""
    why = "it slides a window along the axis"
    rank = len(shape_of(eqn.outvars[0]))
    full = [dims for dims in ins if len(dims) == rank]
    out: list[Axis] = []
    for d, size in enumerate(shape_of(eqn.outvars[0])):
        if _slides(eqn, d):
            flow.freeze([dims[d] for dims in full], why)
            out.append(flow.frozen(size, why))
        else:
            for dims in full[1:]:
                flow.unify(full[0][d], dims[d])
            out.append(full[0][d])
    return [tuple(out) for _ in eqn.outvars]


def window_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Zeros stay zeros; of what else there is, a maximum or minimum keeps the number."""
    if step.eqn.primitive.name in ("reduce_window_max", "reduce_window_min"):
        # Padding is never the largest (smallest) unless a window has nothing else.
        return [Known(None, known[0].at)]
    if step.eqn.primitive.name == "reduce_window":
        return [UNKNOWN for _ in step.outs]
    source = only_zero(known[0])
    return [Known(None, source.at) for _ in step.outs]


def fft_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The transformed axes are frozen."""
    count = len(eqn.params["fft_lengths"])
    split = len(ins[0]) - count
    flow.freeze(ins[0][split:], "every entry depends on every other")
    sizes = shape_of(eqn.outvars[0])[split:]
    new = (flow.frozen(size, "every entry depends on every other") for size in sizes)
    return [(*ins[0][:split], *new)]


def linear(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Zeros stay zeros."""
    return [only_zero(known[0]) for _ in step.outs]


RULES = {
    **{name: Rule(dropped, reduced, unchanged) for name in primitives.REDUCTIONS},
    "argmax": Rule(frozen_drop, unknown, unchanged),
    "argmin": Rule(frozen_drop, unknown, unchanged),
    "reduce": Rule(frozen_drop, unknown, unchanged),
    **{name: Rule(running_axes, running, unchanged) for name in primitives.CUMULATIVE},
    "sort": Rule(sort_axes, sort_removed, unchanged),
    "top_k": Rule(top_k_axes, top_k_removed, unchanged),
    **{name: Rule(window_axes, window_removed, unchanged) for name in primitives.WINDOWS},
    "fft": Rule(fft_axes, linear, unchanged),
}
