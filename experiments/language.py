"""How a decoder is called: to be trained, with its own losses, and to see how busy experts are.

Beside logits, its layers say what the losses that keep experts in balance are, and how many tokens
each expert got. In training this stands, under `SOWN`, among the collections that a call changes;
the training step adds the losses to the objective's, and logs the rest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from slim import paths
from slim.measure.classification import cross_entropy
from slim.models.deepseek import Foretold, auxiliary
from slim.models.language import LanguageModel
from slim.moe.load import load_statistics

PyTree = Any
Variables = dict[str, PyTree]

ROUTER = "router"
"""The collection that has the routers' biases, which no gradient moves."""
SOWN = "sown"
"""Where `Sown` stands among the collections; no part of the variables."""


class Sown(NamedTuple):
    """What layers say in training.

    Attributes:
        losses: with their weights, float32 () each: to be added to the objective.
        metrics: of routers, float32 () each: to be logged.
    """

    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class Loads(NamedTuple):
    """How busy experts are; those of several batches add up.

    Attributes:
        load: `(layers, experts)` int32, the tokens that chose each.
        dropped: `(layers,)` int32, choices that were not computed.
    """

    load: jax.Array
    dropped: jax.Array


def train(
    model: LanguageModel, module: nn.Module, variables: Variables, ids: jax.Array
) -> tuple[jax.Array, Variables]:
    """Logits of the next tokens, and the collections that training changes, with `SOWN`.

    Args:
        model: has the losses' weights.
        module: its decoder.
        variables: `params`, and `router` where it has biases.
        ids: int32 `(batch, length)`.
    """
    states, changed = _states(module, variables, ids)
    logits, *further = _logits(module, variables, states)
    ahead = [cross_entropy(each[:, :-k], ids[:, k:]).mean() for k, each in enumerate(further, 2)]
    return logits, _changed(model, changed, ahead)


def foretell(
    model: LanguageModel, module: nn.Module, variables: Variables, ids: jax.Array, labels: jax.Array
) -> tuple[Foretold, Variables]:
    """What `train` gives, the logits compared with the labels, and never all of them in memory.

    Args:
        model: has the losses' weights, and the parts of the vocabulary.
        module: its decoder.
        variables: `params`, and `router` where it has biases.
        ids: int32 `(batch, length)`.
        labels: of the same shape, the next tokens.
    """
    states, changed = _states(module, variables, ids)

    def told(states: jax.Array, labels: jax.Array) -> Foretold:
        parts = model.vocabulary_parts
        found: Any = module.apply(variables, states, labels, parts, method="foretell")
        return found

    ahead = []
    for k, each in enumerate(states[1:], 2):
        # Whole, for where rows lie on several devices their places may not be cut.
        losses = told(each, jnp.roll(ids, -k, axis=1)).loss
        ahead.append(losses[:, :-k].mean())
    return told(states[0], labels), _changed(model, changed, ahead)


def observe(module: nn.Module, variables: Variables, ids: jax.Array) -> tuple[jax.Array, Loads]:
    """Logits in evaluation, and the loads, of a decoder with experts."""
    logits, sown = module.apply(variables, ids, train=False, mutable=["load"])
    found = auxiliary(sown)
    return logits, Loads(found.load, found.dropped)


def of_whole(loads: Loads, weights: jax.Array) -> Loads:
    """The loads of a batch without rows that only pad; zeros of others.

    Such rows are of one token all, and go to the same experts.
    """
    whole = jnp.all(weights > 0)
    return jax.tree.map(lambda counted: jnp.where(whole, counted, 0), loads)


def load_scores(loads: Loads) -> dict[str, float]:
    """What is said of all experts from the sum of their loads; nothing, where none was counted.

    Returns:
        `max_violation`, max / mean - 1 as a mean over layers, its worst layer's
        `max_violation_worst`, `load_entropy`, 1 in balance, and `dropped_share`; see
        `slim.moe.load`.
    """
    if not np.asarray(loads.load).any():
        return {}
    by_layer = {k: np.asarray(v) for k, v in load_statistics(*loads).items()}
    means = {name: float(values.mean()) for name, values in by_layer.items()}
    return {**means, "max_violation_worst": float(by_layer["max_violation"].max())}


def active_parameters(params: PyTree, active: int) -> int:
    """How many entries one token meets, embedding and head included.

    Those of modules that predict further ahead are for training alone, and are left out.

    Args:
        params: of a decoder, whatever was cut out of it.
        active: experts that a token goes to.
    """
    total = 0
    for path, leaf in paths.flatten(params).items():
        if any(part.startswith("ahead_") for part in path.split("/")):
            continue
        experts = leaf.shape[-3] if "/experts/" in path else 1
        total += leaf.size // experts * min(active, experts)
    return total


def _states(
    module: nn.Module, variables: Variables, ids: jax.Array
) -> tuple[tuple[jax.Array, ...], Variables]:
    mutable = [*(name for name in variables if name != "params"), "losses", "load"]
    found: Any = module.apply(variables, ids, train=True, method="states", mutable=mutable)
    return found


def _changed(model: LanguageModel, changed: Variables, ahead: list[jax.Array]) -> Variables:
    """The collections with `SOWN`, of the mean losses of the tokens after the next among others."""
    losses, metrics = {}, {}
    if ahead and model.ahead_weight:
        losses["ahead"] = model.ahead_weight * jnp.stack(ahead).mean()
    if changed.get("load"):
        said = auxiliary(changed)
        for name, weight in model.loss_weights.items():
            losses[name] = weight * said.losses[name].sum()
        for name, values in load_statistics(said.load, said.dropped).items():
            for layer in range(len(values)):
                metrics[f"router_{layer}/{name}"] = values[layer]
    kept = {name: tree for name, tree in changed.items() if name not in ("losses", "load")}
    return {**kept, SOWN: Sown(losses, metrics)}


def _logits(
    module: nn.Module, variables: Variables, states: tuple[jax.Array, ...]
) -> list[jax.Array]:
    found: list[Any] = [module.apply(variables, each, method="logits") for each in states]
    return found
