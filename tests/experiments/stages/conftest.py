"""Stages run one by one in this process, on images of noise with a stripe or on texts."""

import dataclasses
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
from experiments.data.info import IMAGE
from experiments.preemption import Preemption
from experiments.stages import Context, Model
from tests.experiments import jobs

MLP = {"name": "mlp", "hidden": (16, 12)}


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
        of_texts = {"name": "rotten_tomatoes", "length": jobs.LENGTH}
        data = {"name": "digits"} if dataset.info.modality == IMAGE else of_texts
        sizes = {"batch_size": 8, "eval_batch_size": 8}
        self._fields = {"name": "test", "data": {**data, **sizes}, "model": model}
        self.dataset = dataset
        self._directory, self._numbers, self._module = directory, itertools.count(), module
        context = self._context("train", {})
        self.network = context.network
        variables = jax.jit(self.network.init)(jax.random.key(0))
        self.model = Model(jax.device_put(variables, meshes.replicated(context.mesh)))

    def run(self, kind: str, model: Model | None = None, **section: Any) -> Model:
        """The model that a stage makes of one; of the fresh variables, if none is given."""
        context = self._context(kind, section)
        (planned,) = self._recipe(kind, section).stages[-1:]
        made = planned.stage.run(context, planned.config, model or self.model).model
        assert made is not None
        return made

    @property
    def directory(self) -> Path:
        """Of the stage that ran last."""
        return max(self._directory.iterdir(), key=lambda path: int(path.name))

    def _recipe(self, kind: str, section: dict[str, Any]) -> recipe.Recipe:
        stages = ("train",) if kind == "train" else ("train", kind)
        return recipe.resolve({**self._fields, "stages": stages, kind: section}, 1)

    def _context(self, kind: str, section: dict[str, Any]) -> Context:
        context = runner.shared_context(self._recipe(kind, section), self.dataset, Preemption())
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
            earlier={"train": lambda: self.model},
            cache=self._directory.parent / "cache",
        )


@pytest.fixture
def stages(tmp_path: Path) -> Callable[..., Stages]:
    """Makes the stages of a network: of a `model` section, or of a module of no name."""
    numbers = itertools.count()
    return lambda model=MLP, module=None, dataset=None: Stages(
        tmp_path / f"stages{next(numbers)}", model, module, dataset or jobs.stripes()
    )
