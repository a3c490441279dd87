"""Measures what each group of the model before it is worth: the loss as it alone is pruned.

The stage leaves `sensitivity.json` and `sensitivity.png` in its directory, and the model as it is;
`shrink` can take its ratios from it (`distribution = "sensitivity"`).
"""

from pathlib import Path
from typing import Annotated

import jax
from pydantic import Field

from experiments import mesh as meshes
from experiments import report
from experiments.schema import ConfigError, Schema, one_of, refused
from experiments.stages import evidence
from experiments.stages.stage import Context, Model, Result, Stage
from slim import graph
from slim.prune import SCORES, Sensitivity, measure_sensitivity


class SensitivityConfig(Schema):
    """Each group pruned alone to each ratio, lowest scores first, all others whole.

    Attributes:
        score: what a unit is worth, and the estimate beside the measurement; a name of
            `slim.prune.SCORES`. The estimate of `taylor` and `fisher` is of the loss itself.
        keep_ratios: shares of a group's units that are left.
        images: training examples that the loss is measured on, rounded up to whole batches.
        batches: training batches that gradients or activations are measured on.
    """

    score: Annotated[str, one_of(SCORES)] = "taylor"
    keep_ratios: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
        0.9,
        0.7,
        0.5,
        0.3,
        0.1,
    )
    images: Annotated[int, Field(ge=1)] = 1024
    batches: Annotated[int, Field(ge=1)] = 10


def run(context: Context, config: SensitivityConfig, model: Model | None) -> Result:
    """The metric is minus the loss: accuracy on what was trained on hardly moves at first.

    Raises:
        ConfigError: the score finds nothing to rate in a group, or is not finite.
    """
    assert model is not None
    variables, network = model.variables, context.network.shrunk(model.plans)
    traced = network.graph()
    rated = evidence.measure(
        context, network, variables, score=config.score, batches=config.batches
    )
    with refused(f"{context.name}.score = {config.score!r}"):
        scores = evidence.rate_groups(rated, graph.groups(traced), score=config.score)
    count = -(-config.images // context.dataset.batch_size)
    batches = list(evidence.training_batches(context, count))
    loss = jax.jit(lambda variables, batch: evidence.loss(network, variables, batch))

    def metric(plan: graph.Plan) -> float:
        # All on the mesh alike, or a masked leaf would make another program.
        masked = jax.device_put(graph.mask(plan, variables), meshes.replicated(context.mesh))
        return -sum(float(loss(masked, batch)) for batch in batches) / count

    found = measure_sensitivity(traced, scores, metric, keeps=config.keep_ratios)
    if jax.process_index() == 0:
        report.write_sensitivity(found, config.score, context.directory)
    return Result()


def measured(context: Context) -> Sensitivity:
    """What the newest `sensitivity` stage before this one found.

    Raises:
        ConfigError: its file is gone or damaged.
    """
    file: Path = context.directories["sensitivity"] / report.SENSITIVITY
    try:
        return Sensitivity.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{context.name}: {file} cannot be read ({error}); remove its directory, and the next "
            "run measures it again"
        ) from None


STAGE = Stage(SensitivityConfig, run, needs_model=True)
