"""Exits: any traced network with a classifier at some of the values inside it.

    names = match(graph, "*/layer_*/attention/*", "block")[1:]      after each layer but the last
    fn = with_exits(graph, names, exit_head(2, pooling="first"))
    params = {"network": variables, "exits": init_exits(graph, names, head, key)}
    logits = fn(params, *inputs)                                    of each exit, the network's last
    loss = exit_loss(logits, labels, EXIT_WEIGHTS["linear"](len(logits)), cross_entropy)

The network may be pruned or quantized, and `fn` is traced as any other: its `split_outputs` are the
parts that early exit runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim.dynamic.heads import Head
from slim.graph import Graph, tapped
from slim.graph.taps import named

PyTree = Any


def with_exits(
    graph: Graph,
    boundaries: Sequence[str],
    head: Head,
    *,
    mask: Callable[..., jax.Array] | None = None,
    frozen: bool = False,
) -> Callable[..., tuple[jax.Array, ...]]:
    """`fn(params, *inputs, **kwargs)` -> the logits of each exit, then the network's outputs.

    Args:
        graph: the network, which gives logits `(batch, classes)`.
        boundaries: names of its taps in program order; an exit at each.
        head: the classifier.
        mask: the inputs -> which positions of the hidden states are no padding, as `head` takes it.
        frozen: exits give no gradients to the network: they are trained afterwards (DeeBERT, Xin et
            al. 2020, arXiv:2004.12993), or beside it without touching it.

    Returns:
        A function of `{"network": ..., "exits": {"exit_1": ..., ...}}`.

    Raises:
        ValueError: no tap has such a name.
    """
    names = tuple(boundaries)
    inside = tapped(graph, names)

    def fn(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[jax.Array, ...]:
        outputs, values = inside(params["network"], *inputs, **kwargs)
        kept = None if mask is None else mask(*inputs, **kwargs)
        exits = []
        for i, name in enumerate(names, 1):
            hidden = jax.lax.stop_gradient(values[name]) if frozen else values[name]
            exits.append(head.apply(params["exits"][f"exit_{i}"], hidden, kept))
        return (*exits, outputs)

    return fn


def init_exits(
    graph: Graph, boundaries: Sequence[str], head: Head, key: jax.Array
) -> dict[str, PyTree]:
    """Parameters for the exits of `with_exits`: `exit_1`, `exit_2`, ...

    Raises:
        ValueError: no tap has such a name.
    """
    keys = jax.random.split(key, len(boundaries))
    shapes = [named(graph, name).shape for name in boundaries]
    return {f"exit_{i + 1}": head.init(keys[i], shape) for i, shape in enumerate(shapes)}


def exit_loss(
    logits: Sequence[jax.Array],
    labels: jax.Array,
    weights: Sequence[float],
    loss: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Sum over exits of weight times loss(logits, labels): float32, ().

    Raises:
        ValueError: not a weight for each exit.
    """
    if len(weights) != len(logits):
        raise ValueError(f"{len(weights)} weights for the logits of {len(logits)} exits")
    losses = jnp.stack([loss(each, labels) for each in logits])
    return jnp.dot(jnp.asarray(weights, jnp.float32), losses, precision="highest")


def uniform(exits: int) -> tuple[float, ...]:
    """All alike: deep supervision (Lee et al. 2015, arXiv:1409.5185), BranchyNet, MSDNet.

    >>> uniform(4)
    (0.25, 0.25, 0.25, 0.25)
    """
    return _normalised([1.0] * exits)


def linear(exits: int) -> tuple[float, ...]:
    """Exit i of n weighs i / (1 + ... + n): PABEE (Zhou et al. 2020, arXiv:2006.04152, eq. 3).

    >>> linear(4)
    (0.1, 0.2, 0.3, 0.4)
    """
    return _normalised([i + 1.0 for i in range(exits)])


def layerskip(exits: int, *, scale: float = 0.2) -> tuple[float, ...]:
    """Layer l of L: scale (0 + ... + l), the last L - 1 + scale (0 + ... + L - 2); of their sum.

    LayerSkip (Elhoushi et al. 2024, arXiv:2404.16710, section 4.1.2), layers from 0: the first has
    no loss.

    Raises:
        ValueError: a scale outside [0, 1].

    >>> layerskip(3, scale=0.5)
    (0.0, 0.16666666666666666, 0.8333333333333334)
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"scale = {scale} must be in [0, 1]")
    inner = [scale * i * (i + 1) / 2 for i in range(exits - 1)]
    return _normalised([*inner, exits - 1 + (inner[-1] if inner else 1.0)])


def _normalised(weights: Sequence[float]) -> tuple[float, ...]:
    if not weights:
        raise ValueError("exits = 0: need at least 1")
    return tuple(weight / sum(weights) for weight in weights)


EXIT_WEIGHTS: Mapping[str, Callable[..., tuple[float, ...]]] = {
    "uniform": uniform,
    "linear": linear,
    "layerskip": layerskip,
}
"""Number of exits -> the weight of each one's loss, 1 in all."""
