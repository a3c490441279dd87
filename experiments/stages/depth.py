"""Leaves whole residual blocks out of the model: it becomes shallower."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
from pydantic import Field

from experiments import cuts
from experiments.network import Network, Variables, count
from experiments.schema import ConfigError, Schema, one_of, refused
from experiments.stages import evidence
from experiments.stages.stage import Context, Model, Result, Stage
from slim import graph, paths
from slim.prune import Block, DepthPlan, residual_blocks

LOG = logging.getLogger("slim")

BUDGETS: Mapping[str, Callable[[Network], int]] = {
    "blocks": lambda network: len(residual_blocks(network.graph())),
    "macs": lambda network: graph.cost(network.graph()).macs,
    "params": lambda network: count(network.abstract()["params"]),
}


class DepthConfig(Schema):
    """A cut of the depth to a budget, without training; let `finetune` follow.

    First goes the block without which alone the loss rises least. Or blocks go by name, and no
    loss is measured: what is left starts as a copy of those layers.

    Attributes:
        remove: path patterns of the blocks that go, each by the path of its first kernel; () to
            choose by loss and budget.
        keep_ratio: the budget, as a share of what the model before it has.
        budget: of what: residual `blocks`, `macs`, `params`.
        batches: training batches that the loss is measured on.
    """

    remove: tuple[str, ...] = ()
    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.75
    budget: Annotated[str, one_of(BUDGETS)] = "blocks"
    batches: Annotated[int, Field(ge=1)] = 10


def run(context: Context, config: DepthConfig, model: Model | None) -> Result:
    """Measures what each block is worth, and leaves out as many as the budget says.

    Raises:
        ConfigError: there is no block, the budget cannot be met, or the loss is not a number.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    blocks = residual_blocks(network.graph())
    if not blocks:
        raise ConfigError(
            f"{context.name}: the model has no residual block x + f(x) that could be left out; "
            "cut its widths by a stage of kind 'shrink'"
        )
    if config.remove:
        with refused(f"{context.name}.remove"):
            paths.resolve(
                [(pattern, True) for pattern in config.remove], [block.name for block in blocks]
            )
        plan = DepthPlan(
            tuple(b for b in blocks if any(paths.matches(p, b.name) for p in config.remove))
        )
        LOG.info("%s: left out %s", context.name, ", ".join(block.name for block in plan.blocks))
        return Result(model.cut(plan))
    rises = loss_rises(context, model.variables, network, blocks, config.batches)
    cost = BUDGETS[config.budget]
    target = config.keep_ratio * cost(network)
    plan = DepthPlan(())
    for block in sorted(blocks, key=lambda each: rises[each.name]):
        if cost(network.shrunk([plan])) <= target:
            break
        plan = DepthPlan((*plan.blocks, block))
    if (least := cost(network.shrunk([plan]))) > target:
        raise ConfigError(
            f"{context.name}.keep_ratio = {config.keep_ratio}: {target:g} {config.budget} are out "
            f"of reach: without any of its {len(blocks)} residual blocks the model has {least}"
        )
    LOG.info("%s: left out %s", context.name, ", ".join(block.name for block in plan.blocks))
    return Result(model.cut(plan))


def loss_rises(
    context: Context,
    variables: Variables,
    network: Network,
    blocks: tuple[Block, ...],
    batches: int,
) -> dict[str, float]:
    """By how much the loss rises without each block alone, on so many training batches.

    Raises:
        ConfigError: it is not a number.
    """
    examples = list(evidence.training_batches(context, batches))

    def loss(blocks: tuple[Block, ...]) -> float:
        small = network.shrunk([DepthPlan(blocks)])
        left = cuts.shrink(DepthPlan(blocks), variables)
        of_batch = jax.jit(lambda variables, batch: evidence.loss(small, variables, batch))
        value = sum(float(of_batch(left, batch)) for batch in examples) / batches
        if math.isnan(value):
            raise ConfigError(
                f"{context.name}: the loss is NaN: the model's weights are not finite, or were "
                "never trained; put a stage before it that gives a sound model"
            )
        return value

    whole = loss(())
    rises = {block.name: loss((block,)) - whole for block in blocks}
    for name, rise in rises.items():
        LOG.info("%s: without %s the loss rises by %.4f nats", context.name, name, rise)
    return rises


STAGE = Stage(DepthConfig, run, needs_model=True)
