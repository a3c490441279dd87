"""Folding: batch normalization, biases and scales into the contractions before them.

    folding = find_folding(graph)                 the sites whose result goes through such a chain
    small = fold_params(graph, folding, params)   their kernels scaled, a bias beside each
    fn = folded(graph, folding)                   fn(small, *inputs), equal to the original

Read off the program, not off the names of layers. Where a kernel w gives y = w * x (a product or
a convolution) and nothing reads y but a chain of operations by parameters alone,

    gamma (y - mean) / sqrt(var + eps) + beta = (a w) * x + b,    a = gamma / sqrt(var + eps),
                                                                  b = beta - a mean

(Jacob et al., arXiv:1712.05877, section 3.2.) Sites inside scans, loops and branches are not
looked at.
"""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from slim import paths
from slim.graph.affine import Chain, chains
from slim.graph.flat import Flat, Step, flatten, needed, read, run
from slim.graph.rules.scope import bind
from slim.graph.sites import sites
from slim.graph.stored_json import Fields, Stored, exactly, row
from slim.graph.trace import Graph, arrays, at_shapes

PyTree = Any


@dataclass(frozen=True)
class Folding(Stored):
    """At which sites the chain that follows is folded; it stands alone, as `Plan` does.

    Attributes:
        sites: their names.
    """

    KIND: ClassVar[str] = "folding"
    FIELDS: ClassVar[Fields] = {"sites": row(exactly(str))}

    sites: tuple[str, ...]


def find_folding(graph: Graph) -> Folding:
    """Every site whose following chain can be folded; none is an empty folding.

    The parameter is read at this site only, the result by one operation only, which is affine in
    it by parameters, constants and numbers that vary along no dimension but the parameter's
    own; and so on to the last of them that is not a mere number. One bias alone is left as it is.

    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> params = {"w": shape((3, 4), "float32"), "gain": shape((4,), "float32")}
    >>> graph = trace(lambda p, x: x @ p["w"] * p["gain"], params, shape((2, 3), "float32"))
    >>> find_folding(graph)
    Folding(sites=('w',))
    """
    return Folding(tuple(chains(graph, flatten(graph))))


def fold_params(graph: Graph, folding: Folding, params: PyTree) -> PyTree:
    """The parameters that `folded(graph, folding)` takes, as nested dicts of the paths' parts.

    Kernels are scaled and keep their types. Beside each is its bias, `bias` or, where that is
    taken, `folded_bias` (then `folded_bias2` ...), of the type that the chain computed in.
    Parameters that only the chains read are gone. Pure; differentiable in `params`.

    Raises:
        ValueError: the folding, or `params`, are another model's.
    """
    return paths.unflatten(_Folded(graph, folding).params(params))


def folded(graph: Graph, folding: Folding) -> Callable[..., Any]:
    """The function of `graph`, for the parameters that `fold_params` gives.

    Inputs of other shapes are traced again, once per shape. Sites keep their names, so that the
    result is traced and quantized as the original is. A function with a derivative of its own,
    or a remat, that has a folded site or some of a chain inside is differentiated as a plain one.

    Raises:
        ValueError: the folding, or the parameters of a call, are another model's.
    """
    first = _Folded(graph, folding)
    program = at_shapes(graph, lambda this: first if this is graph else _Folded(this, folding))

    def fn(params: PyTree, *inputs: Any, **kwargs: Any) -> Any:
        given = paths.flatten(params)
        own = {path: leaf for path, leaf in given.items() if path in first.own}
        return program(own, inputs, kwargs)(given, arrays(inputs, kwargs))

    return fn


class _Folded:
    """One graph folded: what is gone, what is new, and the steps that are left."""

    def __init__(self, graph: Graph, folding: Folding) -> None:
        whole = flatten(graph)
        self.graph, self.chains = graph, _chosen(graph, whole, folding)
        before, read_before = needed(whole.steps, whole.outputs)
        after, read_after = needed(_without(whole, self.chains), whole.outputs)
        self.names = dict(zip(whole.inputs, graph.param_shapes, strict=False))
        gone = {path for n, path in self.names.items() if n in read_before - read_after}
        self.own = {path: x for path, x in graph.param_shapes.items() if path not in gone}
        self.biases: dict[str, str] = {}
        for chain in self.chains:
            taken = (*self.own, *self.biases.values())
            self.biases[chain.site.name] = _bias_path(chain.kernel, taken)
        self.kept = [*self.own, *self.biases.values()]
        self._whole = whole
        # Calls are opened only where something in them changes: the others keep derivatives of
        # their own.
        changed = {step.address for step in before} - {step.address for step in after}
        changed |= {chain.step.address for chain in self.chains}
        opened = {address[:end] for address in changed for end in range(len(address))}
        self._after = flatten(graph, opened.__contains__)
        self._steps, self._read = needed(_without(self._after, self.chains), self._after.outputs)

    def params(self, params: PyTree) -> dict[str, Any]:
        """The new parameters by path."""
        given, shapes = paths.flatten(params), self.graph.param_shapes
        _require(shapes, given)
        for path, leaf in given.items():
            if path not in shapes or tuple(leaf.shape) != shapes[path].shape:
                expected = shapes[path].shape if path in shapes else "no such parameter"
                raise ValueError(
                    f"the params are another model's: {path!r} has shape {tuple(leaf.shape)}, "
                    f"the graph has {expected}"
                )
        # One program: its many small operations would each be compiled by themselves.
        return {path: given[path] for path in self.own} | jax.jit(self._new)(given)

    def _new(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The scaled kernels and the biases."""
        others = [link.other for chain in self.chains for link in chain.links]
        wanted = [other for other in others if isinstance(other, int)]
        values = dict(self._whole.consts) | {n: given[path] for n, path in self.names.items()}
        run(needed(self._whole.steps, wanted)[0], values)
        new = {}
        for chain in self.chains:
            a, b = chain.coefficients(values)
            new[chain.kernel] = chain.scaled(given[chain.kernel], a)
            new[self.biases[chain.site.name]] = b.astype(chain.dtype)
        return new

    def __call__(self, given: Mapping[str, Any], data: list[Any]) -> Any:
        """The outputs, from the new parameters by path and the inputs' arrays."""
        _require(self.kept, given)
        program, shapes = self._after, self.graph.param_shapes
        values = dict(program.consts)
        values.update(zip(program.inputs[len(shapes) :], data, strict=True))
        for number, (path, like) in zip(program.inputs, shapes.items(), strict=False):
            if path in self.own:
                values[number] = given[path]
            elif number in self._read:  # by a call that takes it and needs it for nothing
                values[number] = jnp.zeros(like.shape, like.dtype)
        instead = {
            chain.step.address: _biased(chain, given[self.biases[chain.site.name]])
            for chain in self.chains
        }
        run(self._steps, values, instead)
        outputs = [read(each, values) for each in program.outputs]
        return jax.tree.unflatten(jax.tree.structure(self.graph.outputs), outputs)


def _chosen(graph: Graph, program: Flat, folding: Folding) -> list[Chain]:
    found = chains(graph, program)
    for name in folding.sites:
        if name not in found:
            known = {site.name for site in sites(graph)}
            near = ", ".join(paths.nearest(name, found) or sorted(found)[:3]) or "none"
            why = (
                "nothing that can be folded follows it in this function (in training, batch "
                "statistics are data)"
                if name in known
                else "this function has no such site"
            )
            raise ValueError(
                f"site {name!r} cannot be folded: {why}; nearest of those that can: {near}"
            )
    return [chain for name, chain in found.items() if name in folding.sites]


def _without(program: Flat, chosen: list[Chain]) -> list[Step]:
    """The steps when each contraction gives at once what was at the end of its chain."""
    by_address = {step.address: step for step in program.steps}
    ends = {chain.step.address: chain.links[-1].step.address for chain in chosen}
    last = set(ends.values())
    return [
        step._replace(outs=by_address[ends[step.address]].outs) if step.address in ends else step
        for step in program.steps
        if step.address not in last
    ]


def _biased(chain: Chain, bias: jax.Array) -> Callable[[Step, list[Any]], list[Any]]:
    sizes = [n if dim in chain.dims else 1 for dim, n in enumerate(chain.result.shape)]

    def compute(step: Step, operands: list[Any]) -> list[Any]:
        (result,) = bind(step.eqn, operands)
        wide = result.astype(chain.dtype) + bias.astype(chain.dtype).reshape(sizes)
        return [wide.astype(chain.result.dtype)]

    return compute


def _bias_path(kernel: str, taken: Collection[str]) -> str:
    parent = kernel.rpartition("/")[0]
    more = (f"folded_bias{n}" for n in itertools.count(2))
    names = itertools.chain(["bias", "folded_bias"], more)
    every = (f"{parent}/{name}" if parent else name for name in names)
    return next(
        path for path in every if not any(f"{each}/".startswith(f"{path}/") for each in taken)
    )


def _require(expected: Collection[str], given: Mapping[str, Any]) -> None:
    for path in expected:
        if path not in given:
            near = ", ".join(paths.nearest(path, given)) or "none"
            raise ValueError(f"the params lack {path!r}; nearest of theirs: {near}")
