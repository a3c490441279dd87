"""Taps: intermediate values of a function by name, without a change to the model.

    taps(graph)                             what there is, by name
    names = match(graph, "layer_*/attention", "scores")
    fn = tapped(graph, names)               fn(params, *inputs) -> (outputs, {name: value})

Such a function is traced like any other. Of a pruned or folded function (`replay`, `folded`), tap
the new graph; a quantized one is the `simulate` of the tapped function's graph: so everything keeps
the name that it has in the float model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from jax.extend.core import JaxprEqn

from slim import paths
from slim.graph.attentions import attentions
from slim.graph.evaluate import Address, Evaluation, Operation
from slim.graph.inner import inner_jaxprs
from slim.graph.sites import sites
from slim.graph.streams import blocks, ends
from slim.graph.trace import Graph, arrays, at_shapes, source_line
from slim.graph.values import Place, Values, loops

PyTree = Any

KINDS: Mapping[str, str] = {
    "data": "what a site contracts with its parameter; `layer_0/mlp1/kernel:data`",
    "result": "a site's result; its name is the site's: `layer_0/mlp1/kernel`",
    "named": "what the model calls by `jax.ad_checkpoint.checkpoint_name`; by that name",
    "scores": "what goes into an attention's softmax; `layer_0/attention:scores`",
    "attention": "the probabilities that come out; `layer_0/attention`",
    "block": "what enters a residual block; `layer_0/mlp1/kernel:block`, by its first parameter",
    "end": "what the last block leaves, as it would enter one more; `layer_5/mlp1/kernel:end`",
}
"""The kinds of taps, and how each is named."""


@dataclass(frozen=True)
class Tap:
    """One value.

    Attributes:
        name: what it is asked for by; the second of a name ends in `#2`.
        kind: one of `KINDS`.
        of: the name of the site, attention or block that it belongs to; of a named value its own.
        shape: its shape; inside scans their lengths come first. Attention weights and scores have
            keys last, and before them what the model has: `(batch, heads, length, length)`.
        dtype: its type.
        loops: the lengths of the scans around it, outermost first.
        place: where it is had.
        source: the line of user code.
    """

    name: str
    kind: str
    of: str
    shape: tuple[int, ...]
    dtype: Any
    loops: tuple[int, ...]
    place: Place
    source: str


def taps(graph: Graph) -> dict[str, Tap]:
    """All that can be tapped, by name, in program order; found once, and kept with the graph.

    What is inside `while` loops, branches and `shard_map`s is not there.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> graph = trace(lambda w, x: jax.numpy.tanh(x @ w["dense"]),
    ...               {"dense": shape((3, 4), "float32")}, shape((2, 3), "float32"))
    >>> {name: tap.shape for name, tap in taps(graph).items()}
    {'dense:data': (2, 3), 'dense': (2, 4)}
    """
    if graph not in _FOUND:
        found: dict[str, Tap] = {}
        for _, tap in sorted(_find(graph), key=lambda pair: pair[0]):
            count = 1
            while (name := tap.name if count == 1 else f"{tap.name}#{count}") in found:
                count += 1
            found[name] = replace(tap, name=name)
        _FOUND[graph] = found
    return _FOUND[graph]


_FOUND: WeakKeyDictionary[Graph, dict[str, Tap]] = WeakKeyDictionary()


def named(graph: Graph, name: str) -> Tap:
    """The tap of a name.

    Raises:
        ValueError: there is none; the message says what is nearest, or why it cannot be had.
    """
    if name not in taps(graph):
        raise ValueError(_unknown(graph, name))
    return taps(graph)[name]


def match(graph: Graph, pattern: str, kind: str | None = None) -> tuple[str, ...]:
    """The names of the taps that a glob matches, in program order.

    Args:
        graph: the function.
        pattern: as in `slim.paths`; for the whole name, or, with a kind, for `Tap.of`.
        kind: one of `KINDS`.

    Raises:
        ValueError: an unknown kind, or nothing matches.

    >>> import jax
    >>> from slim.graph import trace
    >>> w = jax.ShapeDtypeStruct((3, 3), "float32")
    >>> graph = trace(lambda p, x: x @ p["a"] @ p["b"], {"a": w, "b": w}, w)
    >>> match(graph, "*", "result"), match(graph, "b*")
    (('a', 'b'), ('b:data', 'b'))
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(paths.unknown_name("kind", kind, KINDS))
    known = {
        name: name if kind is None else tap.of
        for name, tap in taps(graph).items()
        if kind in (None, tap.kind)
    }
    found = tuple(name for name, of in known.items() if paths.matches(pattern, of))
    if not found:
        near = paths.nearest(pattern, known.values()) or sorted(known.values())[:3]
        raise ValueError(
            f"no tap{f' of kind {kind!r}' if kind else ''} matches {pattern!r}; nearest: "
            f"{', '.join(near) or 'there is none'}"
        )
    return found


def tapped(graph: Graph, names: Iterable[str]) -> Callable[..., tuple[PyTree, dict[str, Any]]]:
    """`fn(params, *inputs, **kwargs) -> (outputs, {name: value})`, with what `taps` names.

    The operations are the function's own, so outputs are the same to the bit wherever XLA compiles
    them alike. Inputs of other shapes are traced again, once per shape. Gradients pass from the
    values into the parameters; a function with a derivative of its own that has the value inside is
    differentiated as a plain one.

    Raises:
        ValueError: no tap has such a name, or it is where it cannot be had; parameters are missing.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> w = {"a": 2 * jnp.eye(2), "b": jnp.eye(2)}
    >>> graph = trace(lambda p, x: x @ p["a"] @ p["b"] + 1, w, jnp.ones((1, 2)))
    >>> outputs, values = tapped(graph, ["a"])(w, jnp.ones((1, 2)))
    >>> outputs.tolist(), values["a"].tolist()
    ([[3.0, 3.0]], [[2.0, 2.0]])
    """
    names = tuple(names)
    program = at_shapes(graph, lambda this: _program(this, names))

    def fn(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, dict[str, Any]]:
        given = paths.flatten(params)
        for path in graph.param_shapes:
            if path not in given:
                near = ", ".join(paths.nearest(path, given)) or "none"
                raise ValueError(f"the params lack {path!r}; nearest of theirs: {near}")
        leaves = [given[path] for path in graph.param_shapes]
        return program(given, inputs, kwargs)([*leaves, *arrays(inputs, kwargs)])

    return fn


def _program(
    graph: Graph, names: Sequence[str]
) -> Callable[[list[Any]], tuple[PyTree, dict[str, Any]]]:
    at: dict[Address, list[Tap]] = {}
    for name in dict.fromkeys(names):
        tap = named(graph, name)
        at.setdefault(tap.place.address, []).append(tap)
    groups = {chosen[0].name: chosen for chosen in at.values()}

    def instead(operation: Operation, operands: list[Any], _: None) -> tuple[Sequence[Any], PyTree]:
        results = operation.run(operands)
        return results, {
            tap.name: (operands if tap.place.is_operand else results)[tap.place.which]
            for tap in groups[operation.name]
        }

    where = {address: chosen[0].name for address, chosen in at.items()}
    evaluation = Evaluation(graph, where, instead)

    def run(args: list[Any]) -> tuple[PyTree, dict[str, Any]]:
        outputs, found = evaluation(args, dict.fromkeys(groups))
        values = {name: value for group in found.values() for name, value in group.items()}
        return outputs, {name: values[name] for name in names}

    return run


def _find(graph: Graph) -> Iterator[tuple[Address, Tap]]:
    """The taps, each with the address by which it is in order."""
    values = Values.of(graph)

    def tap(kind: str, of: str, number: int, near: Address) -> tuple[Address, Tap]:
        aval, place = values.avals[number], values.places[number]
        rounds = loops(values.callers[place.address])
        suffix = "" if kind in ("result", "named", "attention") else f":{kind}"
        source = source_line(values.steps[near].eqn, values.callers[near])
        shape = (*rounds, *aval.shape)
        return near, Tap(f"{of}{suffix}", kind, of, shape, aval.dtype, rounds, place, source)

    every = blocks(values)
    for block in every:
        yield tap("block", block.name, block.enters, block.first.address)
    for site in sites(graph):
        if site.address in values.steps:
            step = values.steps[site.address]
            data = [i for i, path in zip(step.ins, site.operands[:2], strict=False) if path is None]
            if len(data) == 1 and isinstance(data[0], int):
                yield tap("data", site.name, data[0], site.address)
            yield tap("result", site.name, step.outs[0], site.address)
    for step in values.steps.values():
        if step.eqn.primitive.name == "name":
            yield tap("named", step.eqn.params["name"], step.outs[0], step.address)
    for attention in attentions(values):
        yield tap("scores", attention.name, attention.scores, attention.step.address)
        yield tap("attention", attention.name, attention.weights, attention.step.address)
    for block, number in ends(values, every):
        yield tap("end", block.name, number, block.last.address)


def _unknown(graph: Graph, name: str) -> str:
    """Why there is no tap of a name."""
    for address, step in Values.of(graph).steps.items():
        inside = {site.name for site in sites(graph) if site.address[: len(address)] == address}
        if inner_jaxprs(step.eqn) and name.removesuffix(":data") in inside.union(_named(step.eqn)):
            return (
                f"{name!r} is inside a {step.eqn.primitive.name} at {source_line(step.eqn)}, out "
                "of which no value can be had; return it from there under a checkpoint_name"
            )
    known = taps(graph)
    near = ", ".join(paths.nearest(name, known) or sorted(known)[:3]) or "there is none"
    return f"no tap is named {name!r}; nearest: {near}"


def _named(eqn: JaxprEqn) -> Iterator[str]:
    """The names by `checkpoint_name` at an equation and inside it."""
    if eqn.primitive.name == "name":
        yield eqn.params["name"]
    for inner in inner_jaxprs(eqn):
        for each in inner.jaxpr.eqns:
            yield from _named(each)
