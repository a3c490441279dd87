"""Scores of a model on the evaluation split, over the whole mesh; used while training."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments import mesh as meshes
from experiments.data.dataset import Dataset
from experiments.network import Trainable, Variables, prepare
from slim.measure import classification

PyTree = Any


def make(
    network: Trainable, dataset: Dataset, mesh: Mesh
) -> Callable[[Variables], dict[str, float]]:
    """A function from variables to loss, top-1, macro-F1 and calibration error."""

    @jax.jit
    def update(
        acc: classification.Confusion, variables: Variables, batch: dict[str, jax.Array]
    ) -> classification.Confusion:
        logits = network.predict(variables, prepare(batch["input"]))
        return classification.update(acc, logits, batch["label"], batch["weight"])

    def evaluate(variables: Variables) -> dict[str, float]:
        acc = jax.device_put(classification.init(dataset.info.num_classes), meshes.replicated(mesh))
        for batch in dataset.eval_batches(
            process_index=jax.process_index(), process_count=jax.process_count()
        ):
            acc = update(acc, variables, meshes.put_batch(batch, mesh))
        scores = jax.jit(classification.result)(acc)
        return {name: float(value) for name, value in scores._asdict().items()}

    return evaluate


def to_host(tree: PyTree) -> PyTree:
    """NumPy copies of global arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
