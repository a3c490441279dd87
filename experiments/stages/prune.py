"""Removes weights while training: score, distribution, structure and schedule, each by name."""

from typing import Annotated, Any

import jax
import pydantic
from pydantic import Field

from experiments.network import Network
from experiments.schema import Schema, one_of, refused
from experiments.stages import evidence
from experiments.stages.stage import Context, Model, Result, Stage, Wrap, make_job, train
from experiments.train import TrainConfig
from slim import graph
from slim.prune import (
    DISTRIBUTIONS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Evidence,
    Schedule,
    Structure,
    Window,
    apply_masks,
    choose_masks,
    contracted_axes,
    find_masks,
    keep_masks,
    n_m,
    prunable,
    sparsify,
)

PyTree = Any


class SelectRule(Schema):
    """Whether the parameters that match a path pattern may be pruned; first match wins."""

    pattern: str
    prune: bool


class PruneConfig(TrainConfig):
    """Training during which weights are removed.

    Attributes:
        lr: the peak learning rate.
        keep_ratio: share of the prunable weights that is left in the end.
        score: what a weight is worth; a name of `slim.prune.SCORES`. What an optimizer cannot
            compute (`fisher`, `wanda`, `random`) is measured once, before the training.
        distribution: how the ratio is spread over the layers; of `slim.prune.DISTRIBUTIONS`.
        structure: what is removed together; of `slim.prune.STRUCTURES`.
        sparsity_schedule: how the ratio falls; of `slim.prune.SCHEDULES`.
        begin: share of the training after which removing starts.
        end: share of the training after which the final ratio is reached.
        updates: how often masks are chosen anew in between.
        select: which parameters; what no rule matches follows the default (all kernels).
        batches: training batches that are measured on, for scores that are measured before.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.3
    score: Annotated[str, one_of(SCORES)] = "l2"
    distribution: Annotated[str, one_of(DISTRIBUTIONS)] = "global"
    structure: Annotated[str, one_of(STRUCTURES)] = "unstructured"
    sparsity_schedule: Annotated[str, one_of(SCHEDULES)] = "cubic"
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    end: Annotated[float, Field(gt=0, le=1)] = 0.75
    updates: Annotated[int, Field(ge=1)] = 20
    select: tuple[SelectRule, ...] = ()
    batches: Annotated[int, Field(ge=1)] = 10

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "PruneConfig":
        if self.begin >= self.end:
            raise ValueError(f"begin = {self.begin} must be below end = {self.end}")
        if self.keep == "best":
            raise ValueError("keep = 'best' would hand on the densest weights; use 'last'")
        if SCORES[self.score].weights is None:
            raise ValueError(
                f"score = {self.score!r} rates whole units (channels, heads), not single weights; "
                "use it in a stage of kind 'shrink', or choose another score"
            )
        if self.measured and (self.sparsity_schedule != "one_shot" or self.begin > 0):
            raise ValueError(
                f"score = {self.score!r} is measured once, before the training: "
                f"sparsity_schedule = {self.sparsity_schedule!r} must be 'one_shot', and begin = "
                f"{self.begin:g} must be 0"
            )
        return self

    @property
    def measured(self) -> bool:
        """Whether the score needs more than the weights and gradients that an optimizer sees."""
        return not set(SCORES[self.score].needs) <= {"grads"}

    def falling(self, steps: int) -> Schedule:
        """The keep ratio in the course of `steps`."""
        begin = round(self.begin * steps)
        end = max(begin, min(round(self.end * steps), steps - 1))
        window = Window(begin, end, every=max(1, (end - begin) // self.updates))
        return SCHEDULES[self.sparsity_schedule](self.keep_ratio, window)


def run(context: Context, config: PruneConfig, model: Model | None) -> Result:
    """Trains the model before it while its masks close.

    Raises:
        ConfigError: rules that decide nothing, a structure that does not fit the weights or the
            keep ratio, a schedule that does not fit into the steps, or scores that are not finite.
    """
    assert model is not None
    outcome = train(context, config, model, _wrap(context, config, model))
    masks = find_masks(outcome.opt_state)
    # An average of weights still remembers those that were removed.
    params = apply_masks(masks, outcome.variables["params"])
    pruned = model._replace(variables=outcome.variables | {"params": params}, masks=masks)
    return Result(pruned, seconds=outcome.seconds)


def _wrap(context: Context, config: PruneConfig, model: Model) -> Wrap:
    """Makes an optimizer one under which the model's parameters grow sparse."""
    network = context.network.shrunk(model.plans)
    params = model.variables["params"]
    select = [(rule.pattern, rule.prune) for rule in config.select]
    with refused(f"{context.name}.select"):
        prunable(params, select)
    with refused(f"{context.name}.sparsity_schedule = {config.sparsity_schedule!r}"):
        schedule = config.falling(make_job(context, config).total_steps)
    how: dict[str, Any] = {
        "score": SCORES[config.score],
        "distribution": DISTRIBUTIONS[config.distribution],
        "structure": _structure(config.structure, network, model, select),
        "select": select,
    }

    def choose(found: Evidence) -> PyTree:
        return choose_masks(found, config.keep_ratio, **how)

    with refused(f"{context.name}.structure = {config.structure!r}"):
        jax.eval_shape(lambda p: choose(Evidence(p, p, p, p, p, jax.random.key(0))), params)
    if not config.measured:
        return lambda optimizer, steps: sparsify(optimizer, schedule=schedule, **how)
    found = evidence.measure(
        context, network, model.variables, score=config.score, batches=config.batches
    )
    with refused(f"{context.name}.score = {config.score!r}"):
        masks = choose(found)
    return lambda optimizer, steps: keep_masks(optimizer, masks)


def _structure(
    name: str, network: Network, model: Model, select: list[tuple[str, bool]]
) -> Structure:
    """A structure by name; N:M runs along the axes that this network's products sum over."""
    n, colon, m = name.partition(":")
    if not colon:
        return STRUCTURES[name]

    def predict(params: PyTree, inputs: jax.Array) -> jax.Array:
        return network.predict({**model.variables, "params": params}, inputs)

    traced = graph.trace(predict, model.variables["params"], network.sample())
    return n_m(int(n), int(m), axes=contracted_axes(traced, select))


STAGE = Stage(PruneConfig, run, needs_model=True)
