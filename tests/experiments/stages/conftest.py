"""Stages run one by one in this process, on images of noise with a stripe, texts, or language."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import linen as nn

from experiments import mesh as meshes
from experiments import recipe, runner
from experiments.data.dataset import Dataset
from experiments.data.info import IMAGE, LANGUAGE, TEXT, Modality
from experiments.preemption import Preemption
from experiments.stages import Context, Model
from tests.experiments import jobs

MLP = {"name": "mlp", "hidden": (16, 12)}
# What the recipe says that the data are; what is trained on is made in the test.
DATA: dict[Modality, dict[str, Any]] = {
    IMAGE: {"name": "digits"},
    TEXT: {"name": "rotten_tomatoes", "length": jobs.LENGTH},
    LANGUAGE: {"name": "random_tokens", "length": jobs.LENGTH, "vocabulary": 300},
}


class Stages:
    """Runs stages on one network.

    Attributes:
        model: fresh variables, on the mesh.
        network: of the whole model.
        dataset: the examples.
    """

    def __init__(
        self, directory: Path, model: dict[str, Any], module: nn.Module | None, dataset: Dataset
    ) -> None:
        data = DATA[dataset.info.modality]
        sizes = {"batch_size": 8, "eval_batch_size": 8}
        self._fields = {"name": "test", "data": {**data, **sizes}, "model": model}
        self.dataset = dataset
        self._directory, self._numbers, self._module = directory, itertools.count(), module
        context = self.context("train", {})
        self.network = context.network
        variables = jax.jit(self.network.init)(jax.random.key(0))
        self.model = Model(jax.device_put(variables, meshes.replicated(context.mesh)))

    def run(self, kind: str, model: Model | None = None, **section: Any) -> Model:
        """The model that a stage makes of one; of the fresh variables, if none is given."""
        made = self._run(kind, model or self.model, {}, section)
        assert made is not None
        return made

    def leave(self, kind: str, earlier: dict[str, Model], **section: Any) -> Path:
        """The directory of a stage that makes no model.

        Args:
            kind: of the stage.
            earlier: models of stages before it, by their kinds, after `train`'s.
            **section: its config.
        """
        (*_, last) = earlier.values()
        assert self._run(kind, last, earlier, section) is None
        return self.directory

    def _run(
        self, kind: str, model: Model, earlier: dict[str, Model], section: dict[str, Any]
    ) -> Model | None:
        context = self.context(kind, section, earlier)
        (planned,) = self._recipe(kind, section, tuple(earlier)).stages[-1:]
        return planned.stage.run(context, planned.config, model).model

    @property
    def directory(self) -> Path:
        """Of the stage that ran last."""
        return max(self._directory.iterdir(), key=lambda path: int(path.name))

    def context(
        self, kind: str, section: dict[str, Any], earlier: dict[str, Model] | None = None
    ) -> Context:
        """What a stage of that kind is given, with a new directory."""
        models = {"train": lambda: self.model}
        for name, model in (earlier or {}).items():
            models[name] = functools.partial(lambda each: each, model)
        planned = self._recipe(kind, section, tuple(earlier or {}))
        context = runner.shared_context(planned, self.dataset, Preemption())
        network = context.network
        if self._module is not None:
            network = dataclasses.replace(network, module=self._module)
        directory = self._directory / str(next(self._numbers))
        directory.mkdir(parents=True)
        return dataclasses.replace(
            context,
            name=kind,
            network=network,
            directory=directory,
            earlier=models,
            cache=self._directory.parent / "cache",
        )

    def _recipe(
        self, kind: str, section: dict[str, Any], earlier: tuple[str, ...]
    ) -> recipe.Recipe:
        stages = ("train",) if kind == "train" else ("train", *earlier, kind)
        return recipe.resolve({**self._fields, "stages": stages, kind: section}, 1)


@pytest.fixture
def stages(tmp_path: Path) -> Callable[..., Stages]:
    """Makes the stages of a network: of a `model` section, or of a module of no name."""
    numbers = itertools.count()
    return lambda model=MLP, module=None, dataset=None: Stages(
        tmp_path / f"stages{next(numbers)}", model, module, dataset or jobs.stripes()
    )
