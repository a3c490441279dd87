"""Measures the models of all the stages before it, the first of them as the baseline."""

from functools import partial

from experiments import mesh as meshes
from experiments.measure import EvaluateConfig, Measured, measure
from experiments.network import Network
from experiments.stages.stage import Context, Model, Result, Stage


def run(context: Context, config: EvaluateConfig, model: Model | None) -> Result:
    """All models are measured by the same code, their latencies in turn."""
    earlier = {name: load() for name, load in context.earlier.items()}
    models = [
        _measured(name, context.network.shrunk(each.plans), each) for name, each in earlier.items()
    ]
    batches = context.dataset.eval_batches(config.batch_size)
    rows = measure(models, batches, config, put=partial(meshes.put_batch, mesh=context.mesh))
    return Result(measures=tuple(rows))


def _measured(name: str, network: Network, model: Model) -> Measured:
    return Measured(
        name,
        network.predict,
        model.variables,
        differentiable=network.differentiable,
        weights=network.weights(model.variables),
    )


STAGE = Stage(
    EvaluateConfig,
    run,
    needs_model=True,
    needs_floats=False,
    version=3,
    for_images=("attacks", "corruptions"),
)
