"""Cuts whole structures (channels, heads, hidden units) out of the model: it becomes smaller."""

from collections.abc import Collection, Mapping
from typing import Annotated

import pydantic
from pydantic import Field

from experiments.schema import ConfigError, Schema, unknown_name
from experiments.stages import evidence, sensitivity
from experiments.stages.stage import Context, Model, Result, Stage
from slim import graph
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    NORMALISATIONS,
    Limits,
    by_sensitivity,
    fit_widths,
    plan_widths,
    width_costs,
)
from slim.prune.widths import GroupDistribution

SENSITIVITY = "sensitivity"
TABLES: Mapping[str, Collection[str]] = {
    "score": evidence.GROUP_SCORES,
    "normalisation": NORMALISATIONS,
    "distribution": {*GROUP_DISTRIBUTIONS, SENSITIVITY},
}


class WidthRule(Schema):
    """Limits of the groups that match a name pattern; first match wins.

    Attributes:
        pattern: of the group's name, `params/stage1_block1/conv1/kernel:3`.
        min_width: the fewest units left.
        round_to: widths are multiples of this.
        keep: a fixed share of the units; 0: as the budget says.
    """

    pattern: str
    min_width: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    keep: Annotated[float, Field(ge=0, le=1)] = 0.0


class ShrinkConfig(Schema):
    """A cut to a budget, without training; let `finetune` follow.

    Attributes:
        keep_ratio: the budget, as a share of what the model before it has.
        budget: of what: `params`, `bytes`, `macs`.
        score: what a unit is worth; a name of `slim.prune.SCORES`.
        normalisation: what makes scores of groups comparable; of `slim.prune.NORMALISATIONS`.
        distribution: which units go first; of `slim.prune.GROUP_DISTRIBUTIONS`, or `sensitivity`:
            as the newest `sensitivity` stage before this one found; choose its score here too.
        min_width: the fewest units left in a group.
        round_to: widths are multiples of this, so that the device likes them.
        rules: other limits for some groups.
        batches: training batches that gradients are measured on, for scores that need them.
    """

    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    budget: str = "macs"
    score: str = "taylor"
    normalisation: str = "mean"
    distribution: str = "global"
    min_width: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    rules: tuple[WidthRule, ...] = ()
    batches: Annotated[int, Field(ge=1)] = 10

    @pydantic.field_validator("score", "normalisation", "distribution")
    @classmethod
    def _known(cls, name: str, info: pydantic.ValidationInfo) -> str:
        table = TABLES[str(info.field_name)]
        if name not in table:
            raise unknown_name(str(info.field_name), name, table)
        return name

    @pydantic.field_validator("budget")
    @classmethod
    def _counted(cls, name: str) -> str:
        if name not in ("params", "bytes", "macs"):
            raise unknown_name("budget", name, ("params", "bytes", "macs"))
        return name


def run(context: Context, config: ShrinkConfig, model: Model | None) -> Result:
    """Scores the groups of the model, fits their widths to the budget, and cuts.

    Raises:
        ConfigError: the budget cannot be met, a rule decides nothing, the score does not fit the
            model, or the sensitivity was measured at other sizes.
    """
    assert model is not None
    traced, scores = evidence.rate_groups(
        context,
        model,
        score=config.score,
        batches=config.batches,
        normalisation=config.normalisation,
    )
    cost = width_costs(traced)[config.budget]
    try:
        widths = fit_widths(
            scores,
            cost,
            config.keep_ratio * cost({}),
            distribution=_distribution(context, config.distribution),
            limits=[
                (rule.pattern, Limits(rule.min_width, rule.round_to, rule.keep or None))
                for rule in config.rules
            ],
            default=Limits(config.min_width, config.round_to),
        )
    except ValueError as error:
        raise ConfigError(f"{context.name}: {error}") from None
    plan = plan_widths(traced, scores, widths)
    masks = None
    if model.masks is not None:
        masks = graph.shrink(plan, {"params": model.masks})["params"]
    return Result(Model(graph.shrink(plan, model.variables), masks, (*model.plans, plan)))


def _distribution(context: Context, name: str) -> GroupDistribution:
    if name == SENSITIVITY:
        return by_sensitivity(sensitivity.measured(context))
    return GROUP_DISTRIBUTIONS[name]


def _requires(config: ShrinkConfig) -> tuple[str, ...]:
    return ("sensitivity",) if config.distribution == SENSITIVITY else ()


STAGE = Stage(ShrinkConfig, run, needs_model=True, requires=_requires)
