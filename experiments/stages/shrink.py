"""Cuts whole structures (channels, heads, hidden units) out of the model: it becomes smaller."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pydantic
from pydantic import Field

from experiments.network import Network
from experiments.schema import one_of, refused
from experiments.stages import latency, sensitivity
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.stages.units import Rated, UnitsConfig, rate
from slim.graph import Graph
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    by_sensitivity,
    plan_widths,
)
from slim.prune.widths import GroupDistribution

SENSITIVITY = "sensitivity"
LATENCY = "latency"

Ratio = Annotated[float, Field(gt=0, lt=1)]


class ShrinkConfig(UnitsConfig):
    """A cut to a budget, without training; let `finetune` follow.

    Attributes:
        keep_ratio: the budget, as a share of what the model before it has.
        budget: of what: `params`, `bytes`, `macs`, or the `latency` measured on this device.
        distribution: which units go first; of `slim.prune.GROUP_DISTRIBUTIONS`, or `sensitivity`:
            as the newest `sensitivity` stage before this one found; choose its score here too. For
            a budget of latency `global`: the most score within the time is kept.
        latency_batch: examples in a timed call.
        latency_keeps: for a budget of latency, shares of its units that each group alone is timed
            at, each a program to compile; the widths are chosen among these.
        latency_rounds: samples of each latency.
    """

    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    budget: Annotated[str, one_of(("params", "bytes", "macs", LATENCY))] = "macs"
    distribution: Annotated[str, one_of({*GROUP_DISTRIBUTIONS, SENSITIVITY})] = "global"
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
    rated = rate(context, config, network, traced, model.variables)
    widths = _widths(context, config, model, network, traced, rated)
    return Result(model.cut(plan_widths(traced, rated.scores, widths)))


def _widths(
    context: Context,
    config: ShrinkConfig,
    model: Model,
    network: Network,
    traced: Graph,
    rated: Rated,
) -> dict[str, int]:
    """The groups' widths within the budget."""
    scores = rated.scores
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
                limits=rated.rules,
                default=rated.default,
            )
    distribution = _distribution(context, config.distribution, scores)
    with refused(what):
        return rated.within(traced, config.keep_ratio, config.budget, distribution)


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


STAGE = Stage(ShrinkConfig, run, needs_model=True, requires=_requires, of_language=True)
