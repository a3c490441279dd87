"""What stages learn about a model from training examples: losses, and evidence for scores."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import mesh as meshes
from experiments.network import Network, Variables, prepare
from experiments.stages.stage import Context
from slim import graph
from slim.measure import classification
from slim.prune import (
    NORMALISATIONS,
    SCORES,
    Evidence,
    measure_activations,
    measure_gradients,
    score_groups,
)

PyTree = Any

GRADIENTS = {"grads", "squared_grads"}
ACTIVATIONS = {"input_norms", "zero_fractions"}


def loss(network: Network, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
    """The mean cross-entropy of a batch in nats, in evaluation mode."""
    logits = network.predict(variables, prepare(batch["input"]))
    return classification.cross_entropy(logits, batch["label"]).mean()


def training_batches(context: Context, count: int) -> Iterator[dict[str, jax.Array]]:
    """Training batches without augmentation, on the mesh; the same at each call in a stage."""
    found = context.dataset.batches(
        context.stage_seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for _ in range(count):
        yield meshes.put_batch(next(found), context.mesh)


def measure(
    context: Context, network: Network, variables: Variables, *, score: str, batches: int
) -> Evidence:
    """What a score needs to know about `variables["params"]`.

    Args:
        context: the stage's.
        network: the model's.
        variables: the model's.
        score: a name of `SCORES`.
        batches: how many are measured on, for scores that need it.
    """
    needs = set(SCORES[score].needs)
    params = jax.tree.map(jnp.asarray, variables["params"])
    key = jax.random.key(context.stage_seed)

    def with_params(params: PyTree) -> Variables:
        return {**variables, "params": params}

    def loss_of(params: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        return loss(network, with_params(params), batch)

    def logits_of(params: PyTree, inputs: jax.Array) -> jax.Array:
        return network.predict(with_params(params), prepare(inputs))

    found = Evidence(params)
    if needs & GRADIENTS:
        found = measure_gradients(loss_of, params, training_batches(context, batches))
    if needs & ACTIVATIONS:
        inputs = ((batch["input"],) for batch in training_batches(context, batches))
        found = measure_activations(logits_of, params, inputs)
    return found._replace(key=key)


def rate_groups(
    found: Evidence, groups: Iterable[graph.Group], *, score: str, normalisation: str = "none"
) -> dict[str, np.ndarray]:
    """The score of every unit of groups of a `Network.graph`, by the group's name.

    Args:
        found: from `measure`.
        groups: which.
        score: a name of `SCORES`.
        normalisation: of `slim.prune.NORMALISATIONS`.

    Raises:
        ValueError: the score finds nothing to rate in a group, or is not finite.
    """
    # The graph's parameters are all of the variables.
    trees = found._replace(key=None)._asdict()
    whole: dict[str, Any] = {n: {"params": tree} for n, tree in trees.items() if tree is not None}
    scores = score_groups(
        SCORES[score],
        found._replace(**whole),
        groups,
        normalisation=NORMALISATIONS[normalisation],
    )
    return {name: np.asarray(values) for name, values in scores.items()}
