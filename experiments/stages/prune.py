"""Removes weights while training: score, distribution, structure and schedule, each by name."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import optax
import pydantic
from pydantic import Field

from experiments.schema import ConfigError, Schema, unknown_name
from experiments.stages.stage import Context, Model, Result, Stage, make_job, train
from experiments.train import TrainConfig
from slim.prune import (
    DISTRIBUTIONS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Window,
    apply_masks,
    find_masks,
    sparsify,
)

# An optimizer sees parameters and gradients, and masks are of single weights.
TABLES: Mapping[str, Mapping[str, Any]] = {
    "score": {n: s for n, s in SCORES.items() if set(s.needs) <= {"grads"} and s.weights},
    "distribution": DISTRIBUTIONS,
    "structure": STRUCTURES,
    "sparsity_schedule": SCHEDULES,
}


class SelectRule(Schema):
    """Whether the parameters that match a path pattern may be pruned; first match wins."""

    pattern: str
    prune: bool


class PruneConfig(TrainConfig):
    """Training during which weights are removed.

    Attributes:
        lr: the peak learning rate.
        keep_ratio: share of the prunable weights that is left in the end.
        score: what a weight is worth; a name of `slim.prune.SCORES`.
        distribution: how the ratio is spread over the layers; of `slim.prune.DISTRIBUTIONS`.
        structure: what is removed together; of `slim.prune.STRUCTURES`.
        sparsity_schedule: how the ratio falls; of `slim.prune.SCHEDULES`.
        begin: share of the training after which removing starts.
        end: share of the training after which the final ratio is reached.
        updates: how often masks are chosen anew in between.
        select: which parameters; what no rule matches follows the default (all kernels).
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.3
    score: str = "l2"
    distribution: str = "global"
    structure: str = "unstructured"
    sparsity_schedule: str = "cubic"
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    end: Annotated[float, Field(gt=0, le=1)] = 0.75
    updates: Annotated[int, Field(ge=1)] = 20
    select: tuple[SelectRule, ...] = ()

    @pydantic.field_validator("score", "distribution", "structure", "sparsity_schedule")
    @classmethod
    def _known(cls, name: str, info: pydantic.ValidationInfo) -> str:
        table = TABLES[str(info.field_name)]
        if name not in table:
            raise unknown_name(str(info.field_name), name, table)
        return name

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "PruneConfig":
        if self.begin >= self.end:
            raise ValueError(f"begin = {self.begin} must be below end = {self.end}")
        if self.keep == "best":
            raise ValueError("keep = 'best' would hand on the densest weights; use 'last'")
        return self

    def wrap(
        self, optimizer: optax.GradientTransformation, steps: int
    ) -> optax.GradientTransformation:
        """The optimizer under which the parameters grow sparse in the course of `steps`."""
        begin = round(self.begin * steps)
        end = max(begin, min(round(self.end * steps), steps - 1))
        window = Window(begin, end, every=max(1, (end - begin) // self.updates))
        return sparsify(
            optimizer,
            schedule=SCHEDULES[self.sparsity_schedule](self.keep_ratio, window),
            score=SCORES[self.score],
            distribution=DISTRIBUTIONS[self.distribution],
            structure=STRUCTURES[self.structure],
            select=[(rule.pattern, rule.prune) for rule in self.select],
        )


def run(context: Context, config: PruneConfig, model: Model | None) -> Result:
    """Trains the model before it while its masks close.

    Raises:
        ConfigError: rules that decide nothing, a structure that does not fit the weights, or a
            schedule that does not fit into the steps.
    """
    assert model is not None
    steps = make_job(context, config).total_steps
    try:
        jax.eval_shape(config.wrap(optax.identity(), steps).init, model.variables["params"])
    except ValueError as error:
        raise ConfigError(f"{context.name}: {error}") from None
    outcome = train(context, config, model, config.wrap)
    masks = find_masks(outcome.opt_state)
    # An average of weights still remembers those that were removed.
    params = apply_masks(masks, outcome.variables["params"])
    pruned = model._replace(variables=outcome.variables | {"params": params}, masks=masks)
    return Result(pruned, seconds=outcome.seconds)


STAGE = Stage(PruneConfig, run, needs_model=True)
