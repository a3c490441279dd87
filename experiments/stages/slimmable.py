"""Trains several widths and depths of the model at once, all in one set of weights.

The units are sorted by importance once, so that a narrower variant is the beginning of a wider one.
In every step the widest learns from the labels and the others from it. Batch statistics differ from
width to width, but training does not read them: so each variant's are measured once, at the end, on
the same batches, and while training only the widest's are kept, for its evaluation.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import jax
import optax
import pydantic
from pydantic import Field

from experiments.network import Network, Variables, prepare
from experiments.schema import ConfigError, one_of, refused
from experiments.stages import evidence
from experiments.stages.depth import loss_rises
from experiments.stages.stage import Context, Model, Result, Stage, make_job
from experiments.stages.units import Rated, UnitsConfig, rate
from experiments.train import TrainConfig, fit
from experiments.train_step import Losses, Objective, Rows, cross_entropy
from slim.dynamic import (
    Nested,
    NestedPlan,
    distilled_in_place,
    nest,
    nested_depths,
    sort_units,
)
from slim.dynamic.nested_plan import VARIANTS
from slim.graph import Graph, Plan
from slim.graph.order import ordered_groups
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    DepthPlan,
    keep_masks,
    residual_blocks,
)
from slim.quant import reestimate

PyTree = Any

LOG = logging.getLogger("slim")


class SlimmableConfig(TrainConfig, UnitsConfig):
    """Variants of one network, and how they are trained.

    Attributes:
        lr: the peak learning rate.
        keep_ratios: the budget of each variant, as a share of what the model before it has; the
            first is 1, the whole model, and none is above the one before it.
        budget: of what: `params`, `bytes` or `macs`.
        distribution: which units go first; of `slim.prune.GROUP_DISTRIBUTIONS`.
        drops: how many residual blocks each variant lacks, those first without which alone the loss
            rises least: 0 for the first, and none below the one before it; () for no block.
        middle: how many variants between the widest and the narrowest are trained in a step, drawn
            at random; all of them need no draw, and on a CPU convolutions are faster so.
        temperature: of the softened targets.
        statistics: training batches that batch statistics are measured on at the end.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    keep_ratios: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=2)] = (
        1.0,
        0.5,
        0.25,
    )
    budget: Annotated[str, one_of(("params", "bytes", "macs"))] = "macs"
    distribution: Annotated[str, one_of(GROUP_DISTRIBUTIONS)] = "uniform"
    drops: tuple[Annotated[int, Field(ge=0)], ...] = ()
    middle: Annotated[int, Field(ge=0)] = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0
    statistics: Annotated[int, Field(ge=1)] = 20

    @pydantic.model_validator(mode="after")
    def _nested(self) -> "SlimmableConfig":
        ratios, drops = self.keep_ratios, self.drops or (0,) * len(self.keep_ratios)
        if ratios[0] != 1 or list(ratios) != sorted(ratios, reverse=True):
            raise ValueError(f"keep_ratios = {ratios}: must begin with 1 and descend")
        if len(drops) != len(ratios) or drops[0] or list(drops) != sorted(drops):
            raise ValueError(
                f"drops = {drops}: give one for each of keep_ratios = {ratios}, the first 0, none "
                "below the one before it; or () for no block"
            )
        if any(one == other for one, other in pairwise(zip(ratios, drops, strict=True))):
            raise ValueError(
                f"keep_ratios = {ratios}, drops = {drops}: two variants are the same; each must "
                "have a smaller ratio or more drops than the one before it"
            )
        if self.middle > len(ratios) - 2:
            raise ValueError(
                f"middle = {self.middle}: {len(ratios)} variants have {len(ratios) - 2} between "
                "the widest and the narrowest"
            )
        return self


def run(context: Context, config: SlimmableConfig, model: Model | None) -> Result:
    """Sorts the units, trains all variants, and measures the batch statistics of each.

    Raises:
        ConfigError: a budget cannot be met, a rule decides nothing, the score does not fit the
            model, or it has fewer blocks than are to go.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    traced = network.graph()
    nested = _nested(context, config, network, traced, model.variables)
    depths = _depths(context, config, network, traced, model.variables)
    plan = NestedPlan(dict(_variants(config, nested, depths)))
    variables, masks = sort_units(nested, model.variables), model.masks
    if masks is not None:
        masks = sort_units(nested, {**model.variables, "params": masks})["params"]

    def wrap(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        del steps
        return optimizer if masks is None else keep_masks(optimizer, masks)

    job = make_job(context, config, model.plans, wrap)
    job = dataclasses.replace(job, objective=_objective(config, network, plan))
    outcome = fit(job, variables, context.preemption)
    plans = (*model.plans, plan)
    measured = _with_statistics(context, config, context.network.shrunk(plans), outcome.variables)
    return Result(Model(measured, masks, plans), seconds=outcome.seconds)


def _nested(
    context: Context,
    config: SlimmableConfig,
    network: Network,
    traced: Graph,
    variables: Variables,
) -> Nested:
    """The order of the units, and the widths of each variant."""
    whole = ordered_groups(traced)
    for name, reasons in whole.items():
        LOG.info("%s: %s stays whole: %s", context.name, name, "; ".join(reasons))
    rated = rate(context, config, network, traced, variables, whole)
    widths = [_widths(context, config, traced, rated, ratio) for ratio in config.keep_ratios]
    with refused(f"{context.name}.keep_ratios = {config.keep_ratios}"):
        return nest(traced, rated.scores, widths)


def _widths(
    context: Context, config: SlimmableConfig, traced: Graph, rated: Rated, ratio: float
) -> dict[str, int]:
    """Of the groups, within a budget."""
    if ratio == 1:
        return {name: len(scores) for name, scores in rated.scores.items()}
    with refused(f"{context.name}.keep_ratios: {ratio:g} of the {config.budget}"):
        first = GROUP_DISTRIBUTIONS[config.distribution]
        return rated.within(traced, ratio, config.budget, first)


def _depths(
    context: Context,
    config: SlimmableConfig,
    network: Network,
    traced: Graph,
    variables: Variables,
) -> tuple[DepthPlan, ...]:
    """The blocks that each variant lacks."""
    if not any(config.drops):
        return (DepthPlan(()),) * len(config.keep_ratios)
    blocks = residual_blocks(traced)
    if max(config.drops) > len(blocks):
        raise ConfigError(
            f"{context.name}.drops = {config.drops}: the model has {len(blocks)} residual blocks "
            "x + f(x) that could be left out"
        )
    rises = loss_rises(context, variables, network, blocks, config.batches)
    return nested_depths(blocks, rises, [len(blocks) - drop for drop in config.drops])


def _variants(
    config: SlimmableConfig, nested: Nested, depths: tuple[DepthPlan, ...]
) -> list[tuple[str, tuple[Plan | DepthPlan, ...]]]:
    """Their names and cuts; what cuts nothing is left out."""
    found = []
    for ratio, widths, depth in zip(config.keep_ratios, nested.plans, depths, strict=True):
        name = f"keep_{ratio:g}" + (f"_drop_{len(depth.blocks)}" if config.drops else "")
        width: tuple[Plan | DepthPlan, ...] = (widths,) if widths.keep else ()
        found.append((name, (*width, depth) if depth.blocks else width))
    return found


def _objective(config: SlimmableConfig, network: Network, plan: NestedPlan) -> Objective:
    """The sandwich rule."""
    small = {name: network.shrunk(made) for name, made in plan.variants.items()}
    del small[plan.widest]

    def objective(
        variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        del step, constants
        inputs = rows["input"]
        draw, key = jax.random.split(key)
        logits, changed = network.train(variables, inputs, key)

        def logits_of(name: str, variables: Variables) -> jax.Array:
            return small[name].train(plan.narrow(name, variables), inputs, key)[0]

        narrower: list[Callable[[Variables], jax.Array]] = [
            partial(logits_of, name) for name in small
        ]
        own = cross_entropy(logits, rows["label"], config.label_smoothing)
        others = distilled_in_place(
            narrower,
            variables,
            logits,
            draw,
            middle=config.middle,
            temperature=config.temperature,
        )
        return Losses(own + others, logits, changed, {"widest": own, "narrower": others})

    return objective


def _with_statistics(
    context: Context, config: SlimmableConfig, network: Network, variables: Variables
) -> Variables:
    """What training gave, with the batch statistics that each variant has."""
    plan = network.nested_plan
    variables = plan.with_own(variables)
    if VARIANTS not in variables:
        return variables
    batches = [
        (prepare(batch["input"]),)
        for batch in evidence.training_batches(context, config.statistics)
    ]
    key = jax.random.key(0)

    def measured(name: str) -> Variables:
        small = network.variants[name]
        return reestimate(
            lambda own, inputs: small.train(own, inputs, key), plan.narrow(name, variables), batches
        )

    own = {
        name: {kind: tree for kind, tree in measured(name).items() if kind in before}
        for name, before in variables[VARIANTS].items()
    }
    return {**measured(plan.widest), VARIANTS: own}


STAGE = Stage(SlimmableConfig, run, needs_model=True, ends=True)
