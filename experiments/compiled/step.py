"""The train step of a recipe's stage from shapes alone, as `experiments.train.fit` makes it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from experiments import mesh as meshes
from experiments import runner, train
from experiments.data import sets
from experiments.data.dataset import Dataset
from experiments.data.info import LANGUAGE, DataInfo
from experiments.preemption import Preemption
from experiments.recipe import PlannedStage, Recipe
from experiments.schema import ConfigError, unknown_name
from experiments.stages.stage import make_job
from experiments.train import Job, TrainConfig
from experiments.train_step import TrainState
from slim import graph

PyTree = Any

KINDS = ("train", "finetune")
"""The kinds of stages whose step follows from the config; others' follow from what is trained."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step to be compiled.

    Attributes:
        job: as the trainer gets it, without data.
        state: shapes, types and places of the training state.
        batch: likewise of a global batch.
    """

    job: Job
    state: TrainState
    batch: PyTree

    def compile(self) -> jax.stages.Compiled:
        """The program of one device of the job's mesh.

        Raises:
            jax.errors.JaxRuntimeError: it needs more memory than a device has, among others.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        step = train.compiled_step(self.job, shardings)
        return step.lower(self.state, self.batch, self.job.constants).compile()

    def flops(self) -> int:
        """Floating-point operations of a step, on all devices together, recomputing included."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        step = train.compiled_step(self.job, shardings)
        traced = graph.trace(step, self.state, self.batch, self.job.constants)
        return graph.cost(traced, self.job.mesh.devices.flat[0].platform).flops

    def bytes_per_device(self, tree: PyTree) -> int:
        """What a part of the state takes on each device."""
        return meshes.bytes_per_device(tree, jax.tree.map(lambda leaf: leaf.sharding, tree))


def find_stage(recipe: Recipe, name: str | None) -> PlannedStage:
    """The stage of that name, or the first whose step follows from the config alone.

    Raises:
        ConfigError: there is none, or it is of another kind.
    """
    fitting = {stage.name: stage for stage in recipe.stages if stage.kind in KINDS}
    if name is None:
        if not fitting:
            raise ConfigError(
                f"stages: none of {[stage.name for stage in recipe.stages]} is of a kind whose "
                f"step follows from the config alone: {', '.join(KINDS)}"
            )
        return next(iter(fitting.values()))
    known = {stage.name: stage for stage in recipe.stages}
    if name not in known:
        raise unknown_name("--stage", name, known)
    if name not in fitting:
        raise ConfigError(
            f"--stage={name}: what it trains follows from the stages before it, as they ran; "
            f"choose one of a kind in {', '.join(KINDS)}"
        )
    return fitting[name]


def make(recipe: Recipe, stage: PlannedStage, devices: Sequence[jax.Device]) -> Step:
    """The step of a stage, of the recipe's model before any cut, on a mesh of these devices.

    Raises:
        ConfigError: the data set is absent, or the mesh's rules do not fit the parameters.
    """
    assert isinstance(stage.config, TrainConfig)
    dataset = _unread(recipe)
    context = runner.shared_context(recipe, dataset, Preemption(), devices)
    job = make_job(dataclasses.replace(context, name=stage.name), stage.config)
    fresh = jax.eval_shape(lambda v: train.start(job, v), context.network.abstract())
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        fresh,
        train.state_shardings(fresh, job),
    )
    return Step(job, state, _batch(dataset, meshes.batch_sharding(job.mesh)))


def _batch(dataset: Dataset, place: jax.sharding.Sharding) -> PyTree:
    info, rows = dataset.info, dataset.batch_size
    shapes = {
        "input": ((rows, *info.input_shape), info.modality.stored),
        "label": ((rows, *(info.input_shape if info.modality == LANGUAGE else ())), np.int32),
        "index": ((rows,), np.int32),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, (shape, dtype) in shapes.items()
    }


class _Unread:
    """A split of which is known how long it is."""

    in_memory = True

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def gather(self, indices: np.ndarray) -> NoReturn:
        raise NotImplementedError("no example is read to compile a step")

    def fingerprint(self) -> str:
        return ""


def _unread(recipe: Recipe) -> Dataset:
    data = recipe.settings.data
    info: DataInfo = sets.info(data)
    return Dataset(
        info=info,
        train=_Unread(info.num_train),
        eval=_Unread(info.num_eval),
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        fingerprint="",
        buckets=data.buckets,
    )
