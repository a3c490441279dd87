"""What a recipe would run, and what it would take, without running it."""

import json

import jax
import jax.numpy as jnp

from experiments import build, network, optimizers, train_step
from experiments import mesh as meshes
from experiments.data import sets
from experiments.data.config import DataConfig
from experiments.data.info import DataInfo
from experiments.network import Network, Variables
from experiments.precision import PRECISIONS, cast
from experiments.recipe import PlannedStage, Recipe
from experiments.report.quantities import count, size
from experiments.schema import ConfigError, refused
from experiments.stages.distill import DistillConfig
from experiments.stages.distillation import corpus
from experiments.stages.prune import PruneConfig
from experiments.stages.quantize_config import QuantizeConfig
from experiments.stages.shrink import ShrinkConfig
from experiments.train import TrainConfig
from slim import graph, paths
from slim.models.deepseek import count as decoder
from slim.models.language import LanguageModel
from slim.prune import full_masks, keep_masks
from slim.quant import assign, explain_sites


def check_model(recipe: Recipe, info: DataInfo) -> Network:
    """The network, after its shapes were checked against the data's.

    Raises:
        ConfigError: the model cannot take the inputs, the mesh's rules do not fit it, or a stage's
            quantization rules match none of its sites.
    """
    settings = recipe.settings
    net = build.network(settings.model, info, PRECISIONS[settings.precision])
    try:
        variables = net.abstract()
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model = {settings.model}: cannot take {info.modality.noun}s of shape "
            f"{info.input_shape}: {error}"
        ) from None
    sizes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(variables["params"]).items()}
    grid = meshes.shape(settings.mesh, jax.device_count())
    meshes.parameter_specs(settings.mesh, sizes, grid)
    for stage in recipe.stages:
        if isinstance(stage.config, QuantizeConfig):
            # Whether groups divide the parameters is known after the cuts before.
            ungrouped = stage.config.model_copy(update={"group": 0})
            with refused(stage.name):
                assign(net.graph(), ungrouped.policy(stage.config.weights))
        _data(stage, settings.data, info)
    return net


def describe(recipe: Recipe) -> str:
    """The resolved recipe, and its model's parameters, FLOPs and memory per device."""
    settings = recipe.settings
    info = sets.info(settings.data)
    net = check_model(recipe, info)
    noun = info.modality.noun
    lines = [
        json.dumps(recipe.as_dict(), indent=2),
        "",
        f"data        {info.num_train} training and {info.num_eval} evaluation {noun}s of shape "
        f"{info.input_shape}, {info.num_classes} classes; {info.origin}",
    ]
    if net.language is not None:
        lines += _decoder(net.language, info.input_shape[0])
    else:
        cost = graph.cost(net.graph())
        lines += [
            f"parameters  {network.count(net.abstract()['params'])} "
            f"({size(cost.param_bytes)} with all other variables)",
            f"{f'one {noun}':<11} {count(cost.macs)} MACs, {count(cost.flops)} FLOPs",
        ]
    if any(isinstance(stage.config, ShrinkConfig) for stage in recipe.stages):
        lines += _groups(net.graph())
    for stage in recipe.stages:
        if isinstance(stage.config, QuantizeConfig):
            lines += _sites(stage.name, stage.config, net.graph())
        if isinstance(stage.config, TrainConfig) and stage.config.epochs:
            data, of_data = _data(stage, settings.data, info)
            lines.append(_training(recipe, stage, stage.config, net, data, of_data))
    return "\n".join(lines)


def _decoder(model: LanguageModel, length: int) -> list[str]:
    """What a decoder has, and what a token takes, by its shapes alone; see `deepseek.count`."""
    config = model.config
    counted = decoder.parameters(config)
    forward = decoder.flops(config, length / 2)
    decoded = decoder.decode_flops(config, length)
    held = jnp.dtype(model.dtype).itemsize
    cache = decoder.cache_bytes(config, held)
    whole = decoder.full_cache_bytes(config, held)
    kind = jnp.dtype(model.dtype).name
    ahead = f", and {counted.ahead:,} more that predict further ahead" if counted.ahead else ""
    biases = f", {counted.biases:,} of them routers' biases" if counted.biases else ""
    return [
        f"parameters  {counted.total:,}{biases}{ahead}",
        f"active      {counted.active:,} for a token, embedding and head included",
        f"one token   {count(forward)} FLOPs in a text of {length} tokens, {count(3 * forward)} in "
        f"training; {count(decoded)} where it is decoded after them",
        f"cache       {cache:,} bytes a token in {kind}; with all heads' keys and values {whole:,}",
    ]


def _data(stage: PlannedStage, data: DataConfig, info: DataInfo) -> tuple[DataConfig, DataInfo]:
    """What a stage trains on: the recipe's data, or others.

    Raises:
        ConfigError: the others are none for the recipe's data.
    """
    if not (isinstance(stage.config, DistillConfig) and stage.config.corpus is not None):
        return data, info
    others = stage.config.corpus
    return others, corpus.info(others, stage.config, info, f"{stage.name}.corpus")


def _groups(traced: graph.Graph) -> list[str]:
    """How many groups may be cut, and what froze the others, with the line of code that did."""
    frozen: dict[str, list[str]] = {}
    for group in graph.frozen_groups(traced):
        frozen.setdefault("; ".join(group.frozen), []).append(group.name)
    return [f"groups      {len(graph.groups(traced))} may be cut"] + [
        f"frozen      {len(names)}, {names[0]} first: {why}" for why, names in frozen.items()
    ]


def _sites(name: str, config: QuantizeConfig, traced: graph.Graph) -> list[str]:
    """What each site of the uncut model would get, and how many parameters stay float."""
    with refused(name):
        assigned = assign(traced, config.policy(config.weights))
    lines = explain_sites(traced, assigned).splitlines()
    sites, rest = lines[: 1 + len(assigned)], lines[1 + len(assigned) :]
    others = f"{len(rest)} other parameters are in no contraction, and stay float"
    return ["", f"{name}, of the model before any cut:", *sites, others, ""]


def _training(
    recipe: Recipe,
    stage: PlannedStage,
    config: TrainConfig,
    net: Network,
    data: DataConfig,
    info: DataInfo,
) -> str:
    """A stage's steps and what each device must hold for it."""
    settings = recipe.settings
    per_epoch = info.num_train / data.batch_size
    steps = max(1, round(config.epochs * per_epoch))
    optimizer = optimizers.build(config, optimizers.learning_rate(config, steps, round(per_epoch)))
    variables = net.abstract()

    def start(v: Variables) -> train_step.TrainState:
        masked = isinstance(config, PruneConfig)
        used = keep_masks(optimizer, full_masks(v["params"])) if masked else optimizer
        return train_step.start(v, used, seed=0, initial_scale=1.0, ema=config.ema > 0)

    state = jax.eval_shape(start, variables)
    sizes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(state.params).items()}
    mesh = meshes.build(settings.mesh)
    specs = meshes.parameter_specs(settings.mesh, sizes, mesh.devices.shape)
    shardings = meshes.state_shardings(state, state.params, specs, mesh)
    held = meshes.bytes_per_device(state, shardings)
    gradients = jax.eval_shape(lambda p: cast(p, jnp.float32), state.params)
    held += meshes.bytes_per_device(gradients, shardings.params)
    told = f"{stage.name:<11} {steps} steps; per device {size(held)} of state and gradients"
    if net.language is not None:  # what a step takes besides, `launch/compile.py` says
        return told
    rows = data.batch_size // (meshes.batch_parts(mesh.devices.shape) * config.accumulate)
    inputs = jax.eval_shape(lambda: net.sample(rows))
    key = jax.eval_shape(lambda: jax.random.key(0))
    passed = graph.cost(graph.trace(lambda v, i, k: net.train(v, i, k), variables, inputs, key))
    return (
        f"{told}, and at most {size(passed.activation_bytes)} of activations for {rows} "
        f"{info.modality.noun}s at a time"
    )
