"""Layer dropout: residual branches left out at random in training, so that depth may vary later.

layers = [[f"params/layer_{i}/attention/key/kernel:block", ...] for i in range(6)]
fn = skip_layers(trace(loss, params, batch), layers)
value = fn(params, layer_rates(6, 0.2), key, batch)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.graph import Graph
from slim.graph.evaluate import Address, Evaluation, Operation
from slim.graph.streams import blocks
from slim.graph.taps import named, taps
from slim.graph.trace import arrays, at_shapes
from slim.graph.values import Values

PyTree = Any


def layer_rates(
    depth: int, rate: float, *, step: jax.Array | int = 0, steps: int | None = None
) -> jax.Array:
    """The probability that each layer is skipped: p(l, t) = S(t) D(l) rate, `(depth,)` float32.

    D(l) = 2^(l / (L - 1)) - 1 from 0 at the first layer to 1 at the last; S(t) = 1, or where
    training starts from nothing and `steps` T is given, S(t) = 2^(t / (T - 1)) - 1. LayerSkip
    (Elhoushi et al. 2024, arXiv:2404.16710, section 4.1.1).

    Raises:
        ValueError: a rate outside [0, 1); a depth or a number of steps below 1.

    >>> [round(float(rate), 3) for rate in layer_rates(3, 0.5)]
    [0.0, 0.207, 0.5]
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate = {rate} must be in [0, 1)")
    if depth < 1 or (steps is not None and steps < 1):
        raise ValueError(f"depth = {depth}, steps = {steps}: must be at least 1")
    by_layer = np.exp2(np.arange(depth) / max(depth - 1, 1)) - 1
    over = 1.0 if steps is None else jnp.exp2(jnp.float32(step) / max(steps - 1, 1)) - 1
    return jnp.asarray(over * jnp.asarray(by_layer * rate, jnp.float32), jnp.float32)


def skip_layers(
    graph: Graph, layers: Sequence[Sequence[str]], *, whole_batch: bool = False
) -> Callable[..., Any]:
    """`fn(params, rates, key, *inputs, **kwargs)`: `graph` with layers skipped at random.

    x + f(x) becomes x + m f(x) in every block of a layer, m 0 with the layer's rate and else 1,
    drawn for each example. Nothing is scaled, in training or later. A normalization after the sum
    stays.

    Args:
        graph: the function in training; the batch is the first dimension of its residual streams.
        layers: for each layer the taps of kind `block` of its residual blocks.
        whole_batch: one draw for all examples.

    Raises:
        ValueError: no block has such a name; it is inside a scan; (when called) not a rate for
            each layer.
    """
    program = at_shapes(graph, lambda this: (this, dict(_sums(this, layers))))

    def fn(params: PyTree, rates: jax.Array, key: jax.Array, *inputs: Any, **kwargs: Any) -> Any:
        if rates.shape != (len(layers),):
            raise ValueError(
                f"rates of shape {rates.shape} for {len(layers)} layers: give each one"
            )
        given = paths.flatten(params)
        this, sums = program(given, inputs, kwargs)

        def instead(
            operation: Operation, operands: list[Any], state: PyTree
        ) -> tuple[Sequence[Any], PyTree]:
            found = sums[operation.name]
            branch = operands[found.branch]
            count = 1 if whole_batch else branch.shape[0]
            kept = jax.random.bernoulli(
                jax.random.fold_in(key, found.layer), 1 - rates[found.layer], (count,)
            )
            kept = kept.reshape(count, *(1 for _ in branch.shape[1:]))
            operands[found.branch] = jnp.where(kept, branch, jnp.zeros_like(branch))
            return operation.run(operands), state

        evaluation = Evaluation(this, {each.address: name for name, each in sums.items()}, instead)
        args = [*(given[path] for path in this.param_shapes), *arrays(inputs, kwargs)]
        return evaluation(args, dict.fromkeys(sums))[0]

    return fn


class _Sum(NamedTuple):
    """The addition that ends a block: its layer, its address, which operand is the branch."""

    layer: int
    address: Address
    branch: int


def _sums(graph: Graph, layers: Sequence[Sequence[str]]) -> Iterator[tuple[str, _Sum]]:
    values = Values.of(graph)
    # Taps are in the order of the blocks' first contractions.
    every = sorted(blocks(values), key=lambda block: block.first.address)
    found = dict(zip((n for n, t in taps(graph).items() if t.kind == "block"), every, strict=True))
    for i, names in enumerate(layers):
        for name in names:
            tap = named(graph, name)
            if tap.kind != "block" or tap.loops:
                where = f"in a scan of {tap.loops[0]} rounds" if tap.loops else f"a {tap.kind}"
                raise ValueError(
                    f"layer {i}: {name!r} is {where}; give taps of kind 'block' outside of scans"
                )
            block = found[name]
            inside = block.first.outs[0]
            (branch,) = (j for j, n in enumerate(block.last.ins) if values.made_of(n, inside))
            yield name, _Sum(i, block.last.address, branch)
