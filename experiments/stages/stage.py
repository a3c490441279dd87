"""What a stage of a recipe is: a typed config, and a function from one model to the next."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from experiments import cuts
from experiments import mesh as meshes
from experiments.cuts import Cut
from experiments.data import augment
from experiments.data.config import DataConfig
from experiments.data.dataset import Dataset
from experiments.measure import Measures
from experiments.network import Network, Variables
from experiments.precision import Precision
from experiments.preemption import Preemption
from experiments.schema import Schema
from experiments.train import Job, Outcome, RunConfig, TrainConfig, fit
from slim.graph import Plan
from slim.prune import DepthPlan
from slim.quant import Quantization

PyTree = Any


class Model(NamedTuple):
    """What one stage hands to the next.

    Attributes:
        variables: Flax collections.
        masks: bool, in the structure of `variables["params"]`, False where a weight is removed;
            None for a dense model.
        plans: the cuts that made it smaller than the recipe's model; see `Network.shrunk`.
    """

    variables: Variables
    masks: PyTree | None = None
    plans: tuple[Cut, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether its weights are integers."""
        return any(isinstance(plan, Quantization) for plan in self.plans)

    def cut(self, plan: Plan | DepthPlan) -> "Model":
        """The model after one more cut."""
        masks = self.masks
        if masks is not None:
            masks = cuts.shrink(plan, {"params": masks})["params"]
        return Model(cuts.shrink(plan, self.variables), masks, (*self.plans, plan))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a stage gives.

    Attributes:
        model: None for a stage that only measures.
        measures: rows of the report, for earlier stages' models by name.
        seconds: how long it took, where it was stopped and went on; None: as the clock says.
    """

    model: Model | None = None
    measures: tuple[Measures, ...] = ()
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """What a stage may use besides its config and the model before it.

    Attributes:
        name: this stage's name in the recipe.
        directory: where it may keep files; its own.
        seed: the recipe's.
        network: the recipe's model as functions, before any cut.
        data: the config of the data.
        dataset: the data.
        precision: of storage and computing.
        mesh: the devices.
        layout: how parameters are split over them.
        run: how often to save and show.
        preemption: whether to stop early.
        recipe: all of its fields, for records.
        earlier: loads the models of the stages before, by name, in order.
        directories: of the stages before, by kind; of two of a kind the later's.
        cache: where stages of all recipes keep what they would compute alike.
    """

    name: str
    directory: Path
    seed: int
    network: Network
    data: DataConfig
    dataset: Dataset
    precision: Precision
    mesh: Mesh
    layout: meshes.MeshConfig
    run: RunConfig
    preemption: Preemption
    recipe: dict[str, Any]
    earlier: dict[str, Callable[[], Model]]
    directories: dict[str, Path]
    cache: Path

    @property
    def stage_seed(self) -> int:
        """A seed of this stage's own, so that two stages do not see the same batches."""
        return zlib.crc32(f"{self.seed}/{self.name}".encode())


class Stage(NamedTuple):
    """A kind of stage.

    Attributes:
        config: its section of the config.
        run: from the context, the config and the model before it (None where there is none).
        needs_model: whether there must be one.
        requires: from the config, the kinds of stages that must stand before it.
        needs_floats: whether the model before it must not be quantized.
        quantizes: whether its model is.
        ends: whether nothing after it may train or cut what it made.
        version: goes into the key of its results; raised when it computes something else.
        check: refuses, by a ConfigError, a config that does not fit the names of the stages before;
            the third argument is the stage's own name.
        of_language: whether it takes models of language.
        for_images: fields of the config that are lists of what is done to images: empty, and empty
            by default, where examples are something else.
    """

    config: type[Schema]
    run: Callable[[Context, Any, Model | None], Result]
    needs_model: bool
    requires: Callable[[Any], Iterable[str]] = lambda config: ()
    needs_floats: bool = True
    quantizes: bool = False
    ends: bool = False
    version: int = 1
    check: Callable[[Any, tuple[str, ...], str], None] = lambda config, earlier, name: None
    of_language: bool = False
    for_images: tuple[str, ...] = ()


Wrap = Callable[[optax.GradientTransformation, int], optax.GradientTransformation]


def make_job(
    context: Context, config: TrainConfig, plans: tuple[Cut, ...] = (), wrap: Wrap | None = None
) -> Job:
    """The training run of a stage, of the network cut by `plans`; `wrap` as in `Job`."""
    job = Job(
        name=context.name,
        directory=context.directory,
        network=context.network.shrunk(plans),
        dataset=context.dataset,
        augment=augment.build(context.data.augment),
        config=config,
        run=context.run,
        precision=context.precision,
        mesh=context.mesh,
        layout=context.layout,
        seed=context.stage_seed,
    )
    return job if wrap is None else dataclasses.replace(job, wrap=wrap)


def train(context: Context, config: TrainConfig, model: Model, wrap: Wrap | None = None) -> Outcome:
    """Runs the trainer inside a stage, from a model."""
    job = make_job(context, config, model.plans, wrap)
    return fit(job, model.variables, context.preemption)
