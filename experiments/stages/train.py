"""Trains a fresh network."""

import jax

from experiments.stages.stage import Context, Model, Result, Stage, train
from experiments.train import TrainConfig


def run(context: Context, config: TrainConfig, model: Model | None) -> Result:
    """Starts from new variables; of a model that was cut before, in its sizes, and dense."""
    plans = model.plans if model else ()
    network = context.network.shrunk(plans)
    variables = jax.jit(network.init)(jax.random.key(context.seed))
    outcome = train(context, config, Model(variables, plans=plans))
    return Result(Model(outcome.variables, plans=plans), seconds=outcome.seconds)


STAGE = Stage(TrainConfig, run, needs_model=False, of_language=True)
