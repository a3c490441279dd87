"""Evidence from activations: what each weight is multiplied with, for any function.

A contraction is linear in its kernel W, so the gradient of the sum of `contract(f(x), W)` with
respect to W is, for every single weight, the sum of f over the inputs that the weight meets: over
batch, positions, windows, groups, exactly as the operation pairs them. The traced program is run
with such sums added at every contraction of a value with a parameter; casts and changes of layout
of the parameter are undone by the derivative.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from slim.graph import Graph, trace
from slim.graph.cost import CONTRACTIONS
from slim.graph.inner import CALLS, inner_jaxprs, scan_split
from slim.graph.origins import LAYOUT
from slim.graph.rules.scope import bind
from slim.graph.trace import is_array
from slim.prune.evidence import Evidence

PyTree = Any

# Squares, zeros, and all of the inputs that a weight meets.
_STATISTICS: tuple[Callable[[jax.Array], jax.Array], ...] = (
    jnp.square,
    lambda x: (x == 0).astype(jnp.float32),
    jnp.ones_like,
)


class _Value(NamedTuple):
    """A value, and whether it is a parameter, perhaps cast or laid out otherwise."""

    array: Any
    is_parameter: bool = False


def measure_activations(
    fn: Callable[..., Any], params: PyTree, batches: Iterable[tuple[Any, ...]]
) -> Evidence:
    """The norm, and the share of zeros, of the inputs that each weight multiplies.

    Scans over layers are unrolled. Parameters that meet no activation in a contraction (biases,
    embeddings, kernels computed from parameters, kernels inside `cond`, `while` or `shard_map`)
    have None.

    Args:
        fn: fn(params, *inputs).
        params: its parameters.
        batches: tuples of inputs, of one shape, or the function compiles once for each.

    Raises:
        ValueError: no batch.

    >>> x = jnp.array([[3.0, 0.0], [4.0, 1.0]])
    >>> evidence = measure_activations(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 5))}, [(x,)])
    >>> evidence.input_norms["w"].tolist(), evidence.zero_fractions["w"].tolist()
    ([[5.0], [1.0]], [[0.0], [0.5]])
    """
    leaves, tree = jax.tree.flatten(params)
    programs: dict[Any, Callable[..., list[Any]]] = {}
    total: list[Any] | None = None
    for batch in batches:
        shapes = jax.tree.map(lambda leaf: (np.shape(leaf), jnp.result_type(leaf)), batch)
        key = str(shapes)
        if key not in programs:
            programs[key] = _program(trace(fn, params, *batch))
        arrays = [leaf for leaf in jax.tree.leaves(batch) if is_array(leaf)]
        sums = programs[key](leaves, arrays)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    if total is None:
        raise ValueError("batches is empty: activations need at least one batch")
    squares, zeros, uses = ([np.asarray(leaf) for leaf in statistic] for statistic in total)
    seen = [bool(use.any()) for use in uses]

    def evidence(values: list[np.ndarray]) -> PyTree:
        found = [_collapse(v) if ok else None for v, ok in zip(values, seen, strict=True)]
        return jax.tree.unflatten(tree, found)

    shares = [zero / np.maximum(use, 1) for zero, use in zip(zeros, uses, strict=True)]
    return Evidence(
        params,
        input_norms=evidence([np.sqrt(square) for square in squares]),
        zero_fractions=evidence(shares),
    )


def _collapse(values: np.ndarray) -> jax.Array:
    """Size 1 along the dimensions along which nothing changes, rounding apart."""
    for dim in range(values.ndim):
        first = values.take([0], axis=dim)
        if np.allclose(values, first, rtol=1e-4, atol=0):
            values = first
    return jnp.asarray(values)


def _program(graph: Graph) -> Callable[..., list[Any]]:
    """(parameter leaves, input arrays) -> for each statistic, its sum for every weight."""

    @jax.jit
    def measure(leaves: list[jax.Array], arrays: list[jax.Array]) -> list[Any]:
        floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

        def totals(kernels: list[jax.Array]) -> jax.Array:
            given = iter(kernels)
            args = [
                _Value(next(given), True) if yes else _Value(leaf)
                for yes, leaf in zip(floating, leaves, strict=True)
            ]
            sums: list[jax.Array] = []
            args += [_Value(array) for array in arrays]
            _run(graph.jaxpr.jaxpr, graph.jaxpr.consts, args, sums)
            return sum(sums, jnp.zeros(len(_STATISTICS), jnp.float32))

        kernels = [leaf for yes, leaf in zip(floating, leaves, strict=True) if yes]
        _, pull_back = jax.vjp(totals, kernels)
        found = []
        for basis in jnp.eye(len(_STATISTICS), dtype=jnp.float32):
            (derivatives,) = pull_back(basis)
            given = iter(derivatives)
            found.append(
                [
                    (next(given) if yes else jnp.zeros(leaf.shape)).astype(jnp.float32)
                    for yes, leaf in zip(floating, leaves, strict=True)
                ]
            )
        return found

    return measure


def _run(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[_Value], sums: list[jax.Array]
) -> list[_Value]:
    """Evaluate a jaxpr; append to `sums` a vector for each contraction with a parameter."""
    values = dict(zip(jaxpr.constvars, map(_Value, consts), strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(operand: Any) -> _Value:
        return _Value(operand.val) if isinstance(operand, Literal) else values[operand]

    for eqn in jaxpr.eqns:
        ins = [read(operand) for operand in eqn.invars]
        name = eqn.primitive.name
        if name in CALLS:
            (inner,) = inner_jaxprs(eqn)
            outs = _run(inner.jaxpr, inner.consts, ins, sums)
        elif name == "scan" and any(value.is_parameter for value in ins):
            outs = _unroll(eqn, ins, sums)
        else:
            if name in CONTRACTIONS and ins[0].is_parameter != ins[1].is_parameter:
                sums.append(_observe(eqn, ins))
            same = name in LAYOUT and any(value.is_parameter for value in ins)
            outs = [_Value(out, same) for out in bind(eqn, [value.array for value in ins])]
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _observe(eqn: JaxprEqn, ins: list[_Value]) -> jax.Array:
    def contract(statistic: Callable[[jax.Array], jax.Array]) -> jax.Array:
        operands = [
            array.astype(jnp.float32)
            if is_parameter
            else jax.lax.stop_gradient(statistic(array.astype(jnp.float32)))
            for array, is_parameter in ins[:2]
        ]
        rest = [value.array for value in ins[2:]]
        (out,) = bind(eqn, [*operands, *rest], preferred_element_type=np.dtype(np.float32))
        return out.sum()

    return jnp.stack([contract(statistic) for statistic in _STATISTICS])


def _unroll(eqn: JaxprEqn, ins: list[_Value], sums: list[jax.Array]) -> list[_Value]:
    (inner,) = inner_jaxprs(eqn)
    constants, carried, _ = scan_split(eqn)
    fixed, state = ins[:constants], ins[constants : constants + carried]
    stacked = ins[constants + carried :]
    length, results = eqn.params["length"], []
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    for i in order:
        rows = [_Value(value.array[i], value.is_parameter) for value in stacked]
        outs = _run(inner.jaxpr, inner.consts, [*fixed, *state, *rows], sums)
        state = outs[:carried]
        results.append([value.array for value in outs[carried:]])
    if eqn.params["reverse"]:
        results.reverse()
    stacks = [_Value(jnp.stack(rows)) for rows in zip(*results, strict=True)]
    return [*state, *stacks]
