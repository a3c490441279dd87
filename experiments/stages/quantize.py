"""Makes the model's weights and activations integers: after calibration, or after training so."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import report
from experiments.network import Network, Variables, prepare
from experiments.schema import ConfigError, refused
from experiments.simulated import SCALES, SimulatedNetwork
from experiments.stages import auto, evidence, mixed
from experiments.stages.distillation import teacher
from experiments.stages.distillation.objective import with_ones
from experiments.stages.distillation.taught import taught
from experiments.stages.quantize_config import SMOOTHINGS, QuantizeConfig
from experiments.stages.stage import Context, Model, Result, Stage, make_job
from experiments.train import fit
from slim import graph, paths, quant
from slim.graph import Graph
from slim.prune import keep_masks
from slim.quant import Assigned, Option, Quantization, Scales, gptq
from slim.quant.stored import specs_of

PyTree = Any

Batches = list[tuple[jax.Array]]

LOG = logging.getLogger("slim")


def run(context: Context, config: QuantizeConfig, model: Model | None) -> Result:
    """Calibrates, trains if there are epochs, and converts to integers.

    Raises:
        ConfigError: the policy does not fit the model, or the calibration found what no scale fits.
    """
    assert model is not None
    if config.fold:
        model = _folded(context, model)
    network = context.network.shrunk(model.plans).quantizable
    _check_experts(context.name, config, network)
    traced = network.graph()
    variables, seconds = model.variables, None
    batches = _inputs(context, config.batches)
    assigned, scales = _calibrated(context, config, traced, variables, batches)
    if config.reestimate:
        variables = _reestimated(network, assigned, variables, scales, batches)
    if config.epochs:
        variables, scales, seconds = _train(context, config, model, network, assigned, scales)
    with refused(context.name):
        if config.rounding == "gptq":
            hessians = gptq.input_hessians(traced, assigned, variables, batches)
            integers = gptq.convert_by_gptq(traced, assigned, variables, scales, hessians)
        else:
            integers = quant.convert(traced, assigned, variables, scales)
    stored = quant.store(integers)
    made = Model(stored, plans=(*model.plans, Quantization.of(assigned, stored)))
    if config.rounding == "nearest":
        _compare(context, network, assigned, (variables, scales), made)
    return Result(made, seconds=seconds)


def _check_experts(name: str, config: QuantizeConfig, network: Network) -> None:
    """Refuses what cannot be done to experts, whose products are in loops of no fixed length."""
    if network.routes and config.epochs:
        raise ConfigError(
            f"{name}.epochs = {config.epochs:g}: a model with experts cannot be trained rounded; "
            "set epochs = 0, and put a stage 'finetune' before"
        )


def _folded(context: Context, model: Model) -> Model:
    """The model with its batch norms folded into the products before them."""
    before = context.network.shrunk(model.plans).graph()
    folding = graph.find_folding(before)
    if not folding.sites:
        return model
    LOG.info("%s: folded the norms after %d products", context.name, len(folding.sites))
    variables = graph.fold_params(before, folding, model.variables)
    masks = model.masks
    if masks is not None:
        known = paths.flatten(masks)
        masks = paths.map_with_path(
            lambda path, leaf: known.get(path, jnp.ones(leaf.shape, bool)), variables["params"]
        )
    return Model(variables, masks, (*model.plans, folding))


def _explain(context: Context, traced: Graph, assigned: dict[str, Assigned]) -> None:
    """Logs what sites got; `explain.txt` has the parameters that stay float too."""
    lines = quant.explain_sites(traced, assigned).splitlines()
    for line in lines[: 1 + len(assigned)]:
        LOG.info("%s: %s", context.name, line)
    if jax.process_index() == 0:
        (context.directory / "explain.txt").write_text("\n".join(lines) + "\n")


def _calibrated(
    context: Context, config: QuantizeConfig, traced: Graph, variables: Variables, batches: Batches
) -> tuple[dict[str, Assigned], Scales]:
    """What each site gets, and its scales."""
    options = {}
    for weights in config.candidates:
        with refused(context.name):
            assigned = quant.assign(traced, config.policy(weights))
            scales = _calibrate(config, traced, assigned, variables, batches)
        options[weights] = Option(assigned, scales)
    if config.mix or config.adapt:
        assigned, scales = _chosen(context, config, traced, variables, options)
    _explain(context, traced, assigned)
    return assigned, scales


def _chosen(
    context: Context,
    config: QuantizeConfig,
    traced: Graph,
    variables: Variables,
    options: dict[str, Option],
) -> tuple[dict[str, Assigned], Scales]:
    """The format of each site, measured; `mix` leaves a record and pictures of the choice."""
    examples = config.mixed.examples if config.mix else config.auto.examples
    batches = [
        (prepare(batch["input"]), batch["label"])
        for batch in evidence.training_batches(context, -(-examples // context.dataset.batch_size))
    ]
    if config.adapt:
        option = auto.adapt(
            config.auto, traced, variables, options, batches, field=f"{context.name}.auto"
        )
        return dict(option.sites), option.scales
    chosen, record = mixed.choose_formats(
        config.mixed, traced, variables, options, batches, field=f"{context.name}.mixed"
    )
    if jax.process_index() == 0:
        report.write_mixed(record, context.directory)
    return chosen, quant.mix(options, record.best.formats).scales


def _calibrate(
    config: QuantizeConfig,
    traced: Graph,
    assigned: dict[str, Assigned],
    variables: Variables,
    batches: Batches,
) -> Scales:
    """Smoothing, scales and corrections, as the config asks."""
    smoothing = SMOOTHINGS[config.smoothing](traced, assigned, variables, batches)
    scales = quant.calibrate(traced, assigned, variables, batches, smoothing=smoothing)
    if not config.correct_bias:
        return scales
    return quant.bias_correction(traced, assigned, variables, scales, batches)


def _reestimated(
    network: Network,
    assigned: dict[str, Assigned],
    variables: Variables,
    scales: Scales,
    batches: Batches,
) -> Variables:
    """Variables with the batch statistics that the quantized model has."""
    specs = specs_of(assigned)
    simulated = SimulatedNetwork(network, specs, "fixed", frozen=False)
    joined = simulated.join(variables, scales)
    key = jax.random.key(0)
    found = quant.reestimate(
        lambda joined, inputs: simulated.train(joined, inputs, key), joined, batches
    )
    return simulated.split(found)[0]


def _inputs(context: Context, count: int) -> Batches:
    return [(prepare(batch["input"]),) for batch in evidence.training_batches(context, count)]


def _train(
    context: Context,
    config: QuantizeConfig,
    model: Model,
    network: Network,
    assigned: dict[str, Assigned],
    scales: Scales,
) -> tuple[Variables, Scales, float]:
    """Variables and scales after quantization-aware training, and its seconds."""
    simulated = SimulatedNetwork(
        network, specs_of(assigned), config.trained, config.freeze_batch_norm
    )
    variables = simulated.join(model.variables, scales)
    masks = model.masks
    if masks is not None:
        vectors = jax.tree.map(lambda v: jnp.ones(v.shape, bool), variables["params"][SCALES])
        masks = {**masks, SCALES: vectors}
    job = dataclasses.replace(make_job(context, config), network=simulated)
    student = None
    if config.distillation.teacher:
        field = f"{context.name}.distillation"
        student, job = taught(context, config.distillation, job, simulated, field)
        variables = student.join(variables, jax.random.key(context.stage_seed))
        masks = None if masks is None else with_ones(masks, variables["params"])

    def wrap(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
        del steps
        return optimizer if masks is None else keep_masks(optimizer, masks)

    outcome = fit(dataclasses.replace(job, wrap=wrap), variables, context.preemption)
    result = outcome.variables if student is None else student.split(outcome.variables)[0]
    trained, scales = simulated.split(result)
    return trained, scales, outcome.seconds


def _compare(
    context: Context,
    network: Network,
    assigned: dict[str, Assigned],
    floats: tuple[Variables, Scales],
    made: Model,
) -> None:
    """Says how near the integers are to what was simulated, on one batch."""
    ((inputs,),) = _inputs(context, 1)
    simulated = jax.jit(quant.simulate(network.graph(), assigned))(*floats, inputs)
    integers = jax.jit(context.network.shrunk(made.plans).predict)(made.variables, inputs)
    LOG.info(
        "%s: integers agree with the simulation on %.2f%% of %d examples; logits differ by at most "
        "%.2g",
        context.name,
        100 * float((simulated.argmax(-1) == integers.argmax(-1)).astype(jnp.float32).mean()),
        inputs.shape[0],
        float(jnp.abs(simulated - integers).max()),
    )


def _check(config: QuantizeConfig, earlier: tuple[str, ...], name: str) -> None:
    if config.distillation.teacher:
        teacher.check(config.distillation.teacher, earlier, f"{name}.distillation.teacher")


STAGE = Stage(QuantizeConfig, run, needs_model=True, quantizes=True, check=_check, of_language=True)
