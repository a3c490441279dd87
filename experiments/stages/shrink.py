"""Cuts whole structures (channels, heads, hidden units) out of the model: it becomes smaller."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
from pydantic import Field

from experiments import mesh as meshes
from experiments.network import Network, pixels
from experiments.schema import ConfigError, Schema, unknown_name
from experiments.stages.stage import Context, Model, Result, Stage
from slim import graph
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    NORMALISATIONS,
    SCORES,
    Evidence,
    Limits,
    fit_widths,
    measure_gradients,
    plan_widths,
    score_groups,
    width_costs,
)

# What can be measured on the way; activation scores need taps that this stage does not set.
MEASURED = {"grads", "squared_grads", "key"}
TABLES: Mapping[str, Mapping[str, Any]] = {
    "score": {name: s for name, s in SCORES.items() if set(s.needs) <= MEASURED},
    "normalisation": NORMALISATIONS,
    "distribution": GROUP_DISTRIBUTIONS,
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
        distribution: which units go first; of `slim.prune.GROUP_DISTRIBUTIONS`.
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
        ConfigError: the budget cannot be met, or a rule decides nothing.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    traced = network.graph()
    evidence = _evidence(context, config, network, model)
    scores = score_groups(
        SCORES[config.score],
        evidence,
        graph.groups(traced),
        normalisation=NORMALISATIONS[config.normalisation],
    )
    ranked = {name: np.asarray(values) for name, values in scores.items()}
    cost = width_costs(traced)[config.budget]
    try:
        widths = fit_widths(
            ranked,
            cost,
            config.keep_ratio * cost({}),
            distribution=GROUP_DISTRIBUTIONS[config.distribution],
            limits=[
                (rule.pattern, Limits(rule.min_width, rule.round_to, rule.keep or None))
                for rule in config.rules
            ],
            default=Limits(config.min_width, config.round_to),
        )
    except ValueError as error:
        raise ConfigError(f"{context.name}: {error}") from None
    plan = plan_widths(traced, ranked, widths)
    masks = None
    if model.masks is not None:
        masks = graph.shrink(plan, {"params": model.masks})["params"]
    return Result(Model(graph.shrink(plan, model.variables), masks, (*model.plans, plan)))


def _evidence(context: Context, config: ShrinkConfig, network: Network, model: Model) -> Evidence:
    """What the score needs, on training batches without augmentation, in evaluation mode."""
    params = {"params": model.variables["params"]}
    rest = {name: tree for name, tree in model.variables.items() if name != "params"}
    key = jax.random.key(context.stage_seed)
    if not set(SCORES[config.score].needs) & {"grads", "squared_grads"}:
        return Evidence(params, key=key)

    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits = network.predict({**params, **rest}, pixels(batch["image"]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def batches() -> Iterator[dict[str, jax.Array]]:
        found = context.dataset.batches(
            context.stage_seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        for _ in range(config.batches):
            yield meshes.put_batch(next(found), context.mesh)

    measured = measure_gradients(loss, jax.tree.map(jnp.asarray, params), batches())
    return measured._replace(key=key)


STAGE = Stage(ShrinkConfig, run, needs_model=True)
