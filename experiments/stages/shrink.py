"""Cuts whole structures (channels, heads, hidden units) out of the model: it becomes smaller."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pydantic
from pydantic import Field

from experiments.network import Network
from experiments.schema import Schema, one_of, refused
from experiments.stages import evidence, latency, sensitivity
from experiments.stages.stage import Context, Model, Result, Stage
from slim import graph, paths
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    NORMALISATIONS,
    SCORES,
    Limits,
    by_sensitivity,
    fit_widths,
    plan_widths,
    width_costs,
)
from slim.prune.widths import GroupDistribution

SENSITIVITY = "sensitivity"
LATENCY = "latency"

Rules = list[tuple[str, Limits]]
Ratio = Annotated[float, Field(gt=0, lt=1)]


class WidthRule(Schema):
    """Limits of the groups that match a name pattern; first match wins.

    Attributes:
        pattern: of the group's name, `params/stage1_block1/conv1/kernel:3`.
        min_width: the fewest units left.
        round_to: widths are multiples of this.
        keep: a fixed share of the units; 0: as the budget says; 1: the group is left alone, and
            the score need not be able to rate it.
    """

    pattern: str
    min_width: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    keep: Annotated[float, Field(ge=0, le=1)] = 0.0


class ShrinkConfig(Schema):
    """A cut to a budget, without training; let `finetune` follow.

    Attributes:
        keep_ratio: the budget, as a share of what the model before it has.
        budget: of what: `params`, `bytes`, `macs`, or the `latency` measured on this device.
        score: what a unit is worth; a name of `slim.prune.SCORES`.
        normalisation: what makes scores of groups comparable; of `slim.prune.NORMALISATIONS`.
        distribution: which units go first; of `slim.prune.GROUP_DISTRIBUTIONS`, or `sensitivity`:
            as the newest `sensitivity` stage before this one found; choose its score here too. For
            a budget of latency `global`: the most score within the time is kept.
        min_width: the fewest units left in a group.
        round_to: widths are multiples of this, so that the device likes them.
        rules: other limits for some groups.
        batches: training batches that gradients or activations are measured on.
        latency_batch: examples in a timed call.
        latency_keeps: for a budget of latency, shares of its units that each group alone is timed
            at, each a program to compile; the widths are chosen among these.
        latency_rounds: samples of each latency.
    """

    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    budget: Annotated[str, one_of(("params", "bytes", "macs", LATENCY))] = "macs"
    score: Annotated[str, one_of(SCORES)] = "taylor"
    normalisation: Annotated[str, one_of(NORMALISATIONS)] = "mean"
    distribution: Annotated[str, one_of({*GROUP_DISTRIBUTIONS, SENSITIVITY})] = "global"
    min_width: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    rules: tuple[WidthRule, ...] = ()
    batches: Annotated[int, Field(ge=1)] = 10
    latency_batch: Annotated[int, Field(ge=1)] = 64
    latency_keeps: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.75, 0.5, 0.25)
    latency_rounds: Annotated[int, Field(ge=1)] = 15

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ShrinkConfig":
        if self.budget == LATENCY and self.distribution != "global":
            raise ValueError(
                f"distribution = {self.distribution!r} must be 'global' where budget = 'latency': "
                "the time decides where units go"
            )
        return self


def run(context: Context, config: ShrinkConfig, model: Model | None) -> Result:
    """Scores the groups of the model, fits their widths to the budget, and cuts.

    Raises:
        ConfigError: the budget cannot be met, a rule decides nothing, the score does not fit the
            model, or the sensitivity was measured at other sizes.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    traced = network.graph()
    groups = {group.name: group for group in graph.groups(traced)}
    rules = [
        (rule.pattern, Limits(rule.min_width, rule.round_to, rule.keep or None))
        for rule in config.rules
    ]
    with refused(f"{context.name}.rules"):
        limits = paths.resolve(rules, groups, what="width rule")
    cut = [group for name, group in groups.items() if not _whole(limits[name])]
    found = evidence.measure(
        context, network, model.variables, score=config.score, batches=config.batches
    )
    with refused(f"{context.name}.score = {config.score!r}"):
        scores = evidence.rate_groups(
            found, cut, score=config.score, normalisation=config.normalisation
        )
    rules = [(pattern, limit) for pattern, limit in rules if not _whole(limit)]
    widths = _widths(context, config, model, network, traced, scores, rules)
    return Result(model.cut(plan_widths(traced, scores, widths)))


def _whole(limits: Limits | None) -> bool:
    """Whether a group of these limits is left alone."""
    return limits is not None and limits.keep == 1


def _widths(
    context: Context,
    config: ShrinkConfig,
    model: Model,
    network: Network,
    traced: graph.Graph,
    scores: Mapping[str, np.ndarray],
    rules: Rules,
) -> dict[str, int]:
    """The groups' widths within the budget."""
    default = Limits(config.min_width, config.round_to)
    what = f"{context.name}.keep_ratio = {config.keep_ratio:g} of the {config.budget}"
    if config.budget == LATENCY:
        with refused(what):
            return latency.fit_widths(
                context,
                network,
                model.variables,
                traced,
                scores,
                config.keep_ratio,
                batch=config.latency_batch,
                rounds=config.latency_rounds,
                keeps=config.latency_keeps,
                limits=rules,
                default=default,
            )
    distribution = _distribution(context, config.distribution, scores)
    cost = width_costs(traced)[config.budget]
    with refused(what):
        return fit_widths(
            scores,
            cost,
            config.keep_ratio * cost({}),
            distribution=distribution,
            limits=rules,
            default=default,
        )


def _distribution(
    context: Context, name: str, scores: Mapping[str, np.ndarray]
) -> GroupDistribution:
    if name != SENSITIVITY:
        return GROUP_DISTRIBUTIONS[name]
    found = by_sensitivity(sensitivity.measured(context))
    with refused(f"{context.name}.distribution = {name!r}"):
        found(scores)  # refuses groups that were not measured, or at other sizes
    return found


def _requires(config: ShrinkConfig) -> tuple[str, ...]:
    return ("sensitivity",) if config.distribution == SENSITIVITY else ()


STAGE = Stage(ShrinkConfig, run, needs_model=True, requires=_requires)
