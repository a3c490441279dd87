"""Trains a fresh network."""

import jax

from experiments.stages.stage import Context, Model, Result, Stage, train
from experiments.train import TrainConfig


def run(context: Context, config: TrainConfig, model: Model | None) -> Result:
    """Starts from new variables, whatever model came before."""
    variables = jax.jit(context.network.init)(jax.random.key(context.seed))
    outcome = train(context, config, variables)
    return Result(Model(outcome.variables), seconds=outcome.seconds)


STAGE = Stage(TrainConfig, run, needs_model=False)
