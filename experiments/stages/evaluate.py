"""Measures the models of all the stages before it, the first of them as the baseline."""

from functools import partial
from typing import Any

from experiments import mesh as meshes
from experiments.measure import EvaluateConfig, Measured, measure
from experiments.network import Network
from experiments.stages.stage import Context, Model, Result, Stage
from slim.models.deepseek import count

PyTree = Any


def run(context: Context, config: EvaluateConfig, model: Model | None) -> Result:
    """All models are measured by the same code, their latencies in turn."""
    earlier = {name: load() for name, load in context.earlier.items()}
    models = [
        _measured(name, context.network.shrunk(each.plans), each) for name, each in earlier.items()
    ]
    batches = context.dataset.eval_batches(config.batch_size)
    rows = measure(
        models,
        batches,
        config,
        put=partial(meshes.put_batch, mesh=context.mesh),
        modality=context.dataset.info.modality,
        bytes_per_token=context.dataset.bytes_per_token,
    )
    return Result(measures=tuple(rows))


def _measured(name: str, network: Network, model: Model) -> Measured:
    weights = network.weights(model.variables)
    return Measured(
        name,
        network.predict,
        model.variables,
        differentiable=network.differentiable,
        alone=network.alone.predict if network.alone is not network else None,
        weights=weights,
        observe=network.observe if network.routes else None,
        **({} if network.language is None else _of_language(network, weights)),
    )


def _of_language(network: Network, weights: PyTree) -> dict[str, Any]:
    """What is counted by the sizes of a decoder; its tokens see half of their text in the mean."""
    assert network.language is not None
    (length,) = network.input_shape
    floats = network.before if network.quantized else network
    assert floats is not None
    params = floats.abstract()["params"]
    each = count.flops_of(params, network.language.config.active, length / 2)
    return {
        "active_parameters": network.active_parameters(weights),
        "products": round(each * length / 2),
    }


STAGE = Stage(
    EvaluateConfig,
    run,
    needs_model=True,
    needs_floats=False,
    version=3,
    of_language=True,
    for_images=("attacks", "corruptions"),
)
