"""Gives the model early exits, and trains them with it or on it as it is."""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import pydantic
from pydantic import Field

from experiments.network import Network, Variables
from experiments.schema import ConfigError, one_of, refused
from experiments.stages.distillation import teacher
from experiments.stages.distillation.config import Distillation
from experiments.stages.distillation.objective import TAUGHT
from experiments.stages.distillation.taught import Lesson, prepare, supply
from experiments.stages.distillation.terms import LOGITS
from experiments.stages.stage import Context, Model, Result, Stage, make_job
from experiments.train import TrainConfig, fit
from experiments.train_step import Losses, Objective, Rows, cross_entropy
from slim import paths
from slim.dynamic import EXIT_WEIGHTS, POOLINGS, ExitPlan, layer_rates, only_taken, skip_layers
from slim.dynamic.exit_plan import EXITS, with_fresh
from slim.graph import Graph, match, taps, trace
from slim.prune import keep_masks

PyTree = Any


class ExitsConfig(TrainConfig):
    """Classifiers inside the network, and how they and it are trained.

    Attributes:
        lr: the peak learning rate.
        taps: path patterns of the values that exits are at, of all of `slim.graph.taps`; by default
            what enters each residual block.
        skip: so many of the values found are left out at the front: by default the first, which no
            block has changed yet.
        pooling: what of a value is classified; of `slim.dynamic.POOLINGS`.
        pooler: whether a tanh layer stands before the classifier, as in BERT.
        weights: of the exits' losses; of `slim.dynamic.EXIT_WEIGHTS`.
        frozen: only the exits are trained, on the network as it is.
        paths: `all` exits in every step, or one `sampled` by its weight, and then only the
            parameters on the way to it are moved.
        layer_dropout: layers between exits are skipped at random in training, the last with this
            probability, the first never (LayerSkip).
        distillation: each exit's loss has terms of a teacher, if one is named there.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    taps: Annotated[tuple[str, ...], Field(min_length=1)] = ("*:block",)
    skip: Annotated[int, Field(ge=0)] = 1
    pooling: Annotated[str, one_of(POOLINGS)] = "mean"
    pooler: bool = False
    weights: Annotated[str, one_of(EXIT_WEIGHTS)] = "linear"
    frozen: bool = False
    paths: Literal["all", "sampled"] = "all"
    layer_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Distillation = Distillation()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ExitsConfig":
        if any(term.taps for term in self.distillation.terms):
            raise ValueError("distillation.terms: exits are taught by logits: leave taps out")
        if self.frozen and (self.layer_dropout or self.paths == "sampled"):
            raise ValueError(
                f"frozen = True trains only the exits, on the network as it is: layer_dropout = "
                f"{self.layer_dropout:g} must be 0, and paths = {self.paths!r} must be 'all'"
            )
        return self


def run(context: Context, config: ExitsConfig, model: Model | None) -> Result:
    """Trains the exits.

    Raises:
        ConfigError: the patterns match nothing, or the teacher does not fit.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    plan = _plan(context, config, network)
    made = plan.init(network.graph(), jax.random.key(context.stage_seed))
    variables = with_fresh(model.variables, made)
    plans = (*model.plans, plan)
    job = make_job(context, config, plans)
    lesson = None
    if config.distillation.teacher:
        field = f"{context.name}.distillation"
        lesson = prepare(context, config.distillation, network.graph(), field)
        job = supply(context, config.distillation, job, lesson)
    objective = _objective(context, config, network, plan, lesson, job.total_steps)
    masks = model.masks
    if masks is not None:
        masks = {**masks, EXITS: jax.tree.map(lambda p: jnp.ones(p.shape, bool), made)}

    def wrap(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        del steps
        if config.frozen:
            optimizer = _exits_alone(optimizer)
        if config.paths == "sampled":
            optimizer = only_taken(optimizer)
        return optimizer if masks is None else keep_masks(optimizer, masks)

    job = dataclasses.replace(job, objective=objective, wrap=wrap)
    outcome = fit(job, variables, context.preemption)
    return Result(Model(outcome.variables, masks, plans), seconds=outcome.seconds)


def _plan(context: Context, config: ExitsConfig, network: Network) -> ExitPlan:
    """Where the exits are.

    Raises:
        ConfigError: nowhere.
    """
    graph = network.graph()
    with refused(f"{context.name}.taps"):
        names = [name for pattern in config.taps for name in match(graph, pattern)]
    names = sorted(set(names), key=list(taps(graph)).index)[config.skip :]
    if not names:
        raise ConfigError(
            f"{context.name}.skip = {config.skip}: leaves none of the values that match "
            f"{config.taps}; choose others, or a smaller skip"
        )
    return ExitPlan(
        tuple(names), context.dataset.info.num_classes, config.pooling, pooler=config.pooler
    )


def _objective(
    context: Context,
    config: ExitsConfig,
    network: Network,
    plan: ExitPlan,
    lesson: Lesson | None,
    steps: int,
) -> Objective:
    """The weighted sum over the exits of the loss that each would have alone."""
    temperature = config.distillation.temperatures(steps)
    mixture = config.distillation.mixtures(steps)
    weights = jnp.asarray(_weights(config, len(plan.boundaries)), jnp.float32)
    collections = network.abstract().keys() - {"params"}
    if config.paths == "sampled" and collections:
        raise ConfigError(
            f"{context.name}.paths = 'sampled': the model has {', '.join(sorted(collections))}, "
            "which layers that are not run cannot measure; use paths = 'all'"
        )
    forward = _forward(config, network, plan)

    def objective(
        variables: Variables, rows: Rows, key: jax.Array, step: jax.Array, constants: PyTree
    ) -> Losses:
        inputs, labels = rows["input"], rows["label"]
        taught = None
        if lesson is not None:
            taught = rows[TAUGHT] if TAUGHT in rows else lesson.teach(constants, inputs)

        def loss(logits: jax.Array) -> jax.Array:
            own = cross_entropy(logits, labels, config.label_smoothing)
            if lesson is None or taught is None:
                return own
            share, told = mixture.value(step), jnp.float32(0)
            for term in lesson.terms:
                value = term.value(
                    {},
                    {LOGITS: logits},
                    taught,
                    temperature=temperature.value(step),
                    labels=labels,
                    real=None,
                )
                told = told + term.config.weight * value
            return (1 - share) * own + share * told

        path_key, key = jax.random.split(key)
        if config.paths == "all":
            logits, changed = forward(variables, inputs, key)
            losses = jnp.stack([loss(each) for each in logits])
            parts = {f"exit_{i + 1}": each for i, each in enumerate(losses[:-1])}
            total = jnp.dot(weights, losses, precision="highest")
            return Losses(total, logits[-1], changed, parts)

        def alone(i: int) -> Any:
            # What lies beyond exit i is no part of this branch's program.
            return lambda: (loss(each := forward(variables, inputs, key)[0][i]), each)

        taken = jax.random.categorical(path_key, jnp.log(weights))
        total, logits = jax.lax.switch(taken, [alone(i) for i in range(len(weights))])
        return Losses(total, logits, {}, {"depth": taken.astype(jnp.float32) + 1})

    return objective


def _weights(config: ExitsConfig, exits: int) -> tuple[float, ...]:
    """Of the exits and of the network's own classifier, which `frozen` leaves as it is."""
    of = EXIT_WEIGHTS[config.weights]
    return (*of(exits), 0.0) if config.frozen else of(exits + 1)


def _forward(config: ExitsConfig, network: Network, plan: ExitPlan) -> Any:
    """(variables, inputs, key) -> (the logits of all exits, collections after the step)."""
    if config.frozen:
        run = plan.on(network.graph(), mask=network.padding, frozen=True)

        def as_it_is(variables: Variables, inputs: jax.Array, key: jax.Array) -> Any:
            del key
            same = {name: tree for name, tree in variables.items() if name != "params"}
            return run(variables, inputs), same

        return as_it_is
    traced = _with_dropout(config, network, plan)
    run = plan.on(traced, mask=network.padding)

    def forward(variables: Variables, inputs: jax.Array, key: jax.Array) -> Any:
        *exits, (last, changed) = run(variables, inputs, key)
        return (*exits, last), changed

    return forward


def _with_dropout(config: ExitsConfig, network: Network, plan: ExitPlan) -> Graph:
    """The graph of training, of which layers are skipped at random."""
    whole = network.train_graph()
    if not config.layer_dropout:
        return whole
    blocks = [name for name, tap in taps(whole).items() if tap.kind == "block"]
    layers: list[list[str]] = [[]]
    for name in blocks:
        if name in plan.boundaries:
            layers.append([])
        layers[-1].append(name)
    skipping = skip_layers(whole, layers)
    rates = layer_rates(len(layers), config.layer_dropout)

    def fn(variables: Variables, inputs: jax.Array, key: jax.Array) -> Any:
        skip_key, key = jax.random.split(key)
        return skipping(variables, rates, skip_key, inputs, key)

    return trace(fn, network.abstract(), network.sample(), jax.random.key(0))


def _exits_alone(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that moves nothing but the exits."""

    def labels(params: PyTree) -> PyTree:
        return paths.map_with_path(
            lambda path, _: "move" if path.startswith(f"{EXITS}/") else "stay", params
        )

    return optax.multi_transform({"move": optimizer, "stay": optax.set_to_zero()}, labels)


def _check(config: ExitsConfig, earlier: tuple[str, ...], name: str) -> None:
    if config.distillation.teacher:
        teacher.check(config.distillation.teacher, earlier, f"{name}.distillation.teacher")


STAGE = Stage(ExitsConfig, run, needs_model=True, ends=True, check=_check)
