"""What stages that cut units need first: the units' scores, and limits of the groups' widths."""

from collections.abc import Collection
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from experiments.network import Network, Variables
from experiments.schema import Schema, one_of, refused
from experiments.stages import evidence
from experiments.stages.stage import Context
from slim import paths
from slim.graph import Graph, groups
from slim.prune import NORMALISATIONS, SCORES, Limits, fit_widths, width_costs
from slim.prune.widths import GroupDistribution

Rules = list[tuple[str, Limits]]


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


class UnitsConfig(Schema):
    """How units are rated, and what widths a group may have.

    Attributes:
        score: what a unit is worth; a name of `slim.prune.SCORES`.
        normalisation: what makes scores of groups comparable; of `slim.prune.NORMALISATIONS`.
        min_width: the fewest units left in a group.
        round_to: widths are multiples of this, so that the device likes them.
        rules: other limits for some groups.
        batches: training batches that gradients or activations are measured on.
    """

    score: Annotated[str, one_of(SCORES)] = "taylor"
    normalisation: Annotated[str, one_of(NORMALISATIONS)] = "mean"
    min_width: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    rules: tuple[WidthRule, ...] = ()
    batches: Annotated[int, Field(ge=1)] = 10


class Rated(NamedTuple):
    """Scores by group, of those that are to be cut, and their limits.

    Attributes:
        scores: of each unit.
        rules: limits of some groups, by name.
        default: of the others.
    """

    scores: dict[str, np.ndarray]
    rules: Rules
    default: Limits

    def within(
        self, traced: Graph, ratio: float, budget: str, distribution: GroupDistribution
    ) -> dict[str, int]:
        """The groups' widths within a budget.

        Args:
            traced: the graph.
            ratio: the budget, as a share of what it has.
            budget: of what; of `slim.prune.width_costs`.
            distribution: which units go first.

        Raises:
            ValueError: the budget cannot be met, or a rule decides nothing.
        """
        cost = width_costs(traced)[budget]
        return fit_widths(
            self.scores,
            cost,
            ratio * cost({}),
            distribution=distribution,
            limits=self.rules,
            default=self.default,
        )


def rate(
    context: Context,
    config: UnitsConfig,
    network: Network,
    traced: Graph,
    variables: Variables,
    whole: Collection[str] = (),
) -> Rated:
    """Rates the units of a network's groups.

    Args:
        context: the stage's.
        config: the stage's.
        network: the model's.
        traced: its graph.
        variables: the model's.
        whole: groups that are left alone, whatever the rules say.

    Raises:
        ConfigError: a rule decides nothing, or the score does not fit the model.
    """
    found = {group.name: group for group in groups(traced)}
    rules = [
        (rule.pattern, Limits(rule.min_width, rule.round_to, rule.keep or None))
        for rule in config.rules
    ]
    with refused(f"{context.name}.rules"):
        limits = paths.resolve(rules, found, what="width rule")
    cut = {
        name: group
        for name, group in found.items()
        if name not in whole and not _alone(limits[name])
    }
    measured = evidence.measure(
        context, network, variables, score=config.score, batches=config.batches
    )
    with refused(f"{context.name}.score = {config.score!r}"):
        scores = evidence.rate_groups(
            measured, cut.values(), score=config.score, normalisation=config.normalisation
        )
    decided = [(name, limit) for name in cut if (limit := limits[name]) is not None]
    return Rated(scores, decided, Limits(config.min_width, config.round_to))


def _alone(limits: Limits | None) -> bool:
    """Whether a group of these limits is left alone."""
    return limits is not None and limits.keep == 1
