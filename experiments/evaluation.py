"""How predictions are scored, which score decides, and the scores while training."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments import mesh as meshes
from experiments.data.dataset import Dataset
from experiments.data.info import IMAGE, LANGUAGE, TEXT, Modality
from experiments.language import Loads, load_scores, of_whole
from experiments.network import Network, Trainable, Variables, prepare
from slim.measure import classification, language

PyTree = Any

Sums = Any
"""An accumulator: a pytree of sums over examples."""


class Criterion(NamedTuple):
    """The score by which models are compared; here alone stands which direction is better.

    Attributes:
        name: among the scores, and in `experiments.measure.Measures`.
        higher: whether more of it is better.
    """

    name: str
    higher: bool

    def quality(self, scores: Mapping[str, float]) -> float:
        """The score as a number above 0 that is larger where it is better."""
        value = scores[self.name]
        return value if self.higher else 1 / value

    def gain(self, new: float, old: float) -> float:
        """How much better the new value is: above 0 if it is."""
        return new - old if self.higher else old - new


CRITERIA: Mapping[Modality, Criterion] = {
    IMAGE: Criterion("top1", higher=True),
    TEXT: Criterion("top1", higher=True),
    LANGUAGE: Criterion("perplexity", higher=False),
}


class Scoring(NamedTuple):
    """The scores of a modality over batches, as pure functions.

    Attributes:
        init: gives the accumulator of no examples.
        update: adds a batch: (sums, logits, labels, weights) -> sums.
        result: sums -> a NamedTuple of scores, with `loss` and `top1` among them.
        samples: sums -> how much was scored: examples, or of language tokens.
    """

    init: Callable[[], Sums]
    update: Callable[[Sums, jax.Array, jax.Array, jax.Array], Sums]
    result: Callable[[Sums], Any]
    samples: Callable[[Sums], jax.Array]


def scoring(modality: Modality, num_classes: int, *, bytes_per_token: float = math.nan) -> Scoring:
    """That of a modality.

    Args:
        modality: what examples are.
        num_classes: labels; not used of language.
        bytes_per_token: of language.
    """
    if modality == LANGUAGE:
        return Scoring(
            language.init,
            language.update,
            partial(language.result, bytes_per_token=bytes_per_token),
            lambda sums: sums.tokens,
        )
    return Scoring(
        partial(classification.init, num_classes),
        classification.update,
        classification.result,
        lambda sums: sums.counts.sum(),
    )


def make(
    network: Trainable, dataset: Dataset, mesh: Mesh
) -> Callable[[Variables], dict[str, float]]:
    """A function from variables to the scores, of experts those of their loads too."""
    info = dataset.info
    how = scoring(info.modality, info.num_classes, bytes_per_token=dataset.bytes_per_token)
    observe = network.observe if isinstance(network, Network) and network.routes else None

    @jax.jit
    def update(
        acc: tuple[Sums, Loads | None], variables: Variables, batch: dict[str, jax.Array]
    ) -> tuple[Sums, Loads | None]:
        inputs, (sums, before) = prepare(batch["input"]), acc
        loads = None
        if observe is None:
            logits = network.predict(variables, inputs)
        else:
            logits, loads = observe(variables, inputs)
            loads = of_whole(loads, batch["weight"])
            loads = loads if before is None else jax.tree.map(jnp.add, before, loads)
        return how.update(sums, logits, batch["label"], batch["weight"]), loads

    def evaluate(variables: Variables) -> dict[str, float]:
        sums, loads = jax.device_put(how.init(), meshes.replicated(mesh)), None
        for batch in dataset.eval_batches(
            process_index=jax.process_index(), process_count=jax.process_count()
        ):
            sums, loads = update((sums, loads), variables, meshes.put_batch(batch, mesh))
        scores = jax.jit(how.result)(sums)
        found = {name: float(value) for name, value in scores._asdict().items()}
        return found if loads is None else found | load_scores(loads)

    return evaluate


def to_host(tree: PyTree) -> PyTree:
    """NumPy copies of global arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
