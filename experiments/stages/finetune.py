"""Trains the model before it a little more; what was removed stays removed."""

from typing import Annotated

import optax
from pydantic import Field

from experiments.stages.stage import Context, Model, Result, Stage, train
from experiments.train import TrainConfig
from slim.prune import keep_masks


class FinetuneConfig(TrainConfig):
    """As `train`, at a smaller rate.

    Attributes:
        lr: the peak learning rate.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01


def run(context: Context, config: FinetuneConfig, model: Model | None) -> Result:
    """Keeps the masks of the model before."""
    assert model is not None
    masks = model.masks

    def wrap(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        del steps
        return optimizer if masks is None else keep_masks(optimizer, masks)

    outcome = train(context, config, model, wrap)
    return Result(model._replace(variables=outcome.variables), seconds=outcome.seconds)


STAGE = Stage(FinetuneConfig, run, needs_model=True, of_language=True)
