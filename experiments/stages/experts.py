"""Leaves every layer of a decoder fewer experts: the least used go, or similar ones become one."""

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from experiments.network import Network, Variables, prepare
from experiments.schema import ConfigError, Schema, one_of, refused
from experiments.stages import evidence
from experiments.stages.stage import Context, Model, Result, Stage
from slim.models.deepseek import DeepSeek
from slim.models.deepseek.compress import (
    merge,
    plan_merging,
    plan_pruning,
    prune,
    router_logits,
    use_of,
)
from slim.moe.load import gate_load, load
from slim.moe.routing import Routing

LOG = logging.getLogger("slim")

USES: Mapping[str, Callable[[Routing, int], jax.Array]] = {"tokens": load, "gates": gate_load}


class ExpertsConfig(Schema):
    """A cut of every layer's experts to equally many, without training; let `finetune` follow.

    Attributes:
        method: `prune`: the least used go, and the router's columns and biases of them; `merge`:
            each becomes a part of the most similar of the most used, to which the router's choices
            of both are led.
        keep: experts that are left in a layer; at least as many as a token goes to.
        use: what use is: the `tokens` that chose an expert, or the sum of their `gates`. Where
            experts are in balance all have as many tokens.
        batches: training batches that are looked at.
    """

    method: Literal["prune", "merge"] = "prune"
    keep: Annotated[int, Field(ge=1)] = 1
    use: Annotated[str, one_of(USES)] = "gates"
    batches: Annotated[int, Field(ge=1)] = 16


def run(context: Context, config: ExpertsConfig, model: Model | None) -> Result:
    """Counts how experts are used, chooses, and cuts.

    Raises:
        ConfigError: the model has no experts, was cut otherwise or merged before, or cannot do with
            as many experts.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    _check(context.name, network)
    assert network.language is not None
    sizes = network.language.config
    seen = _logits(context, network, model.variables, config.batches)
    with refused(f"{context.name}.keep = {config.keep}"):
        use = {
            name: use_of(sizes, model.variables, name, logits, USES[config.use])
            for name, logits in seen.items()
        }
        if config.method == "prune":
            plan = plan_pruning(use, config.keep, sizes.groups)
        else:
            plan = plan_merging(use, seen, config.keep, sizes.groups)
        small = network.shrunk([plan])
    if config.method == "prune":
        variables = prune(model.variables, plan)
    else:
        variables = merge(model.variables, plan, use)
    for name, layers in plan.parts.items():
        for layer, (parts, used) in enumerate(zip(layers, np.asarray(use[name]), strict=True)):
            LOG.info("%s: %s %d: %s", context.name, name, layer, _described(parts, used))
    expected = small.abstract()
    placed = jax.tree.map(lambda e, v: jnp.asarray(v, e.dtype), expected, variables)
    return Result(Model(placed, plans=(*model.plans, plan)))


def _check(name: str, network: Network) -> None:
    if not network.routes:
        raise ConfigError(f"{name}: the model has no experts; choose model.name = 'deepseek'")
    if network.before is not None:
        raise ConfigError(
            f"{name}: the model was cut otherwise before; put {name!r} before the other cuts"
        )
    assert network.language is not None
    if network.language.config.merged:
        raise ConfigError(
            f"{name}: experts were merged before, and routers still choose among the old ones; "
            "prune before, or merge once"
        )


def _logits(
    context: Context, network: Network, variables: Variables, batches: int
) -> dict[str, jax.Array]:
    """Routers' logits over the tokens of training batches, by mixture."""
    module = network.alone.module
    assert isinstance(module, DeepSeek)
    look = jax.jit(lambda variables, ids: router_logits(module, variables, ids))
    found = [
        jax.device_get(look(variables, prepare(batch["input"])))
        for batch in evidence.training_batches(context, batches)
    ]
    return {name: jnp.concatenate([each[name] for each in found], axis=1) for name in found[0]}


def _described(parts: tuple[tuple[int, ...], ...], used: np.ndarray) -> str:
    """Which experts are left, and the share of all use that they had."""
    share = used[[member for part in parts for member in part]].sum() / used.sum()
    left = ", ".join("+".join(map(str, part)) for part in parts)
    return f"{left} are left, which had {100 * share:.1f}% of the use"


STAGE = Stage(ExpertsConfig, run, needs_model=True, of_language=True)
