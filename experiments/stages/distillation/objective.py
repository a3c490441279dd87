"""A student in training: its variables with those of the terms beside them, and the loss."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from experiments.data.info import TEXT, Modality
from experiments.network import Trainable, Variables
from experiments.stages.distillation.terms import LOGITS, Term, Values
from experiments.train_step import Losses, Rows, cross_entropy
from slim.distill import Schedule
from slim.graph import Graph

PyTree = Any

TERMS = "distilled"
"""Under which name the terms' parameters stand among the student's."""
TAUGHT = "taught"
"""Under which name the teacher's values stand in a batch that has them."""

Teach = Callable[[Variables, jax.Array], Values]
"""(the teacher's variables, inputs) -> its values by tap, and the logits."""


@dataclasses.dataclass(frozen=True)
class Student:
    """What the trainer takes for the student; and its objective.

    Attributes:
        network: the student itself.
        terms: of the loss.
        teach: for batches without the teacher's values.
        temperature: by step.
        mixture: the terms' share of the loss, by step.
        label_smoothing: of the labels' share.
        modality: what inputs are.
    """

    network: Trainable
    terms: tuple[Term, ...]
    teach: Teach
    temperature: Schedule
    mixture: Schedule
    label_smoothing: float
    modality: Modality

    def join(self, variables: Variables, key: jax.Array) -> Variables:
        """The student's variables with fresh parameters of the terms."""
        made = {
            term.name: params
            for i, term in enumerate(self.terms)
            if (params := term.init(jax.random.fold_in(key, i)))
        }
        return {**variables, "params": {**variables["params"], TERMS: made}}

    def split(self, variables: Variables) -> tuple[Variables, PyTree]:
        """The student's variables, and the terms' parameters."""
        params = {name: tree for name, tree in variables["params"].items() if name != TERMS}
        return {**variables, "params": params}, variables["params"].get(TERMS, {})

    def predict(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """The student's logits in evaluation."""
        return self.network.predict(self.split(variables)[0], inputs)

    def train(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """The student's logits in training, and the collections that training changes."""
        return self.network.train(self.split(variables)[0], inputs, key)

    def train_graph(self) -> Graph:
        """The student's."""
        return self.network.train_graph()

    def tapped(self, names: Iterable[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
        """The student's."""
        run = self.network.tapped(names)
        return lambda variables, *data: run(self.split(variables)[0], *data)

    def objective(
        self, variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        """(1 - mixture) CE + mixture sum of the terms; `constants` are the teacher's variables."""
        own, params = self.split(variables)
        inputs, labels = rows["input"], rows["label"]
        logits, changed, values = self._forward(own, inputs, key)
        taught = rows[TAUGHT] if TAUGHT in rows else self.teach(constants, inputs)
        temperature, mixture = self.temperature.value(step), self.mixture.value(step)
        real = inputs != 0 if self.modality == TEXT else None
        parts = {"labels": cross_entropy(logits, labels, self.label_smoothing)}
        total = (1 - mixture) * parts["labels"]
        for term in self.terms:
            parts[term.name] = term.value(
                params.get(term.name, {}),
                {**values, LOGITS: logits},
                taught,
                temperature=temperature,
                labels=labels,
                real=real,
            )
            total = total + mixture * term.config.weight * parts[term.name]
        return Losses(total, logits, changed, parts)

    def _forward(
        self, variables: Variables, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Variables, Values]:
        if self._tapped is None:
            return *self.network.train(variables, inputs, key), {}
        (logits, changed), values = self._tapped(variables, inputs, key)
        return logits, changed, values

    @cached_property
    def _tapped(self) -> Callable[..., tuple[Any, dict[str, jax.Array]]] | None:
        names = [tap.name for term in self.terms for tap in term.student]
        return self.network.tapped(dict.fromkeys(names)) if names else None


def with_ones(masks: PyTree, params: PyTree) -> PyTree:
    """Masks of a pruned student that remove nothing of the terms' parameters."""
    return {**masks, TERMS: jax.tree.map(lambda p: jnp.ones(p.shape, bool), params[TERMS])}
