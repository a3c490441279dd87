"""What stages learn about a model from training images: losses, and scores of its groups' units."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import mesh as meshes
from experiments.network import Network, Variables, pixels
from experiments.schema import ConfigError
from experiments.stages.stage import Context, Model
from slim import graph
from slim.measure import classification
from slim.prune import NORMALISATIONS, SCORES, Evidence, Score, measure_gradients, score_groups

GRADIENTS = {"grads", "squared_grads"}

# What can be measured on the way; activation scores need taps that no stage sets.
GROUP_SCORES: Mapping[str, Score] = {
    name: score for name, score in SCORES.items() if set(score.needs) <= {*GRADIENTS, "key"}
}


def loss(network: Network, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
    """The mean cross-entropy of a batch in nats, in evaluation mode."""
    logits = network.predict(variables, pixels(batch["image"]))
    return classification.cross_entropy(logits, batch["label"]).mean()


def batches(context: Context, count: int) -> Iterator[dict[str, jax.Array]]:
    """Training batches without augmentation, on the mesh; the same at each call in a stage."""
    found = context.dataset.batches(
        context.stage_seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for _ in range(count):
        yield meshes.put_batch(next(found), context.mesh)


def rate_groups(
    context: Context, model: Model, *, score: str, batches: int, normalisation: str = "none"
) -> tuple[graph.Graph, dict[str, np.ndarray]]:
    """The graph of a model, and the score of every unit of its groups, by the group's name.

    Args:
        context: the stage's.
        model: the model.
        score: a name of `GROUP_SCORES`.
        batches: how many gradients are measured on, for scores that need them.
        normalisation: of `slim.prune.NORMALISATIONS`.

    Raises:
        ConfigError: the score finds nothing to rate in a group, or is not finite.
    """
    network = context.network.shrunk(model.plans)
    traced = network.graph()
    evidence = _evidence(context, network, model, score, batches)
    try:
        scores = score_groups(
            SCORES[score],
            evidence,
            graph.groups(traced),
            normalisation=NORMALISATIONS[normalisation],
        )
    except ValueError as error:
        raise ConfigError(f"{context.name}: {error}") from None
    return traced, {name: np.asarray(values) for name, values in scores.items()}


def _evidence(context: Context, network: Network, model: Model, score: str, count: int) -> Evidence:
    """What the score needs."""
    params = {"params": model.variables["params"]}
    rest = {name: tree for name, tree in model.variables.items() if name != "params"}
    key = jax.random.key(context.stage_seed)
    if not set(SCORES[score].needs) & GRADIENTS:
        return Evidence(params, key=key)

    def of_params(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return loss(network, {**params, **rest}, batch)

    params = jax.tree.map(jnp.asarray, params)
    return measure_gradients(of_params, params, batches(context, count))._replace(key=key)
