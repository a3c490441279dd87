"""Trains the model before it, or a fresh one, to do what a teacher does."""

import dataclasses
from typing import Annotated

import jax
import optax
from pydantic import Field

from experiments.data.config import DataConfig
from experiments.stages.distillation import corpus, teacher
from experiments.stages.distillation.config import Distillation
from experiments.stages.distillation.objective import with_ones
from experiments.stages.distillation.taught import taught
from experiments.stages.stage import Context, Model, Result, Stage, make_job
from experiments.train import TrainConfig, fit
from slim.prune import keep_masks


class DistillConfig(TrainConfig, Distillation):
    """Training with a teacher; what was removed stays removed.

    Attributes:
        lr: the peak learning rate.
        corpus: data to train on instead of the recipe's, on which the student is evaluated all the
            same: of a general teacher any examples of their shape, or the recipe's own with words
            replaced. Labels are learnt only if the two have the same; otherwise `mixture` is 1, and
            the accuracy in training means nothing.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    # Stages without it keep the keys that they had before there was one.
    corpus: Annotated[DataConfig | None, Field(exclude_if=lambda corpus: corpus is None)] = None


def run(context: Context, config: DistillConfig, model: Model | None) -> Result:
    """Distils the teacher into the model.

    Raises:
        ConfigError: there is no such teacher, or it and the student cannot be compared so; or the
            corpus is none for the recipe's data.
    """
    if config.corpus is not None:
        context = corpus.on(context, config.corpus, config, f"{context.name}.corpus")
    if model is None:
        model = Model(jax.jit(context.network.init)(jax.random.key(context.seed)))
    network = context.network.shrunk(model.plans)
    job = make_job(context, config, model.plans)
    student, job = taught(context, config, job, network, context.name)
    variables = student.join(model.variables, jax.random.key(context.stage_seed))
    masks = None if model.masks is None else with_ones(model.masks, variables["params"])

    def wrap(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        del steps
        return optimizer if masks is None else keep_masks(optimizer, masks)

    outcome = fit(dataclasses.replace(job, wrap=wrap), variables, context.preemption)
    trained, _ = student.split(outcome.variables)
    return Result(model._replace(variables=trained), seconds=outcome.seconds)


def _check(config: DistillConfig, earlier: tuple[str, ...], name: str) -> None:
    teacher.check(config.teacher, earlier, f"{name}.teacher")


STAGE = Stage(DistillConfig, run, needs_model=False, check=_check, of_language=True)
