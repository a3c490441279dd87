"""The measures of a model: quality, robustness, size, work, latency and memory, in one row.

`measure` treats every model alike, whichever stage made it. Quality and robustness run where the
caller placed variables and batches, on one device or a mesh; work, latency and memory are of the
same function compiled for one device. Models of one `predict` and equal shapes run one compiled
program with different values, so a masked model is as slow as the dense one, and is reported so.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax.experimental import multihost_utils
from pydantic import Field

from experiments.conditions import changes
from experiments.data.info import IMAGE, LANGUAGE, Modality
from experiments.evaluation import Scoring, Sums, scoring
from experiments.language import Loads, load_scores, of_whole
from experiments.network import prepare
from experiments.schema import Schema, one_of
from experiments.timing import Latency, in_turn
from slim import graph
from slim.measure import classification, compiled, size
from slim.measure.attacks import ATTACKS
from slim.measure.corruptions import CORRUPTIONS

PyTree = Any
Batch = Mapping[str, Any]
Predict = Callable[[PyTree, jax.Array], jax.Array]
Observe = Callable[[PyTree, jax.Array], tuple[jax.Array, Loads]]

_prepare = jax.jit(prepare)

NOISE_SEED = 0  # every model of every run meets the same noise and the same random starts


class EvaluateConfig(Schema):
    """What the `evaluate` stage measures, and how finely."""

    batch_size: Annotated[int, Field(gt=0)] = 128
    """Examples in a batch: of the evaluation, and of `latency_batch_*` and `peak_memory_bytes`."""
    latency_rounds: Annotated[int, Field(gt=0)] = 30
    """Samples of each model's latency, at batch 1 and at `batch_size`."""
    robustness_images: Annotated[int, Field(gt=0)] = 256
    """Images, the first of the evaluation set, that are attacked and corrupted."""
    attacks: tuple[Annotated[str, one_of(ATTACKS)], ...] = tuple(ATTACKS)
    """Names in `slim.measure.attacks.ATTACKS`."""
    epsilons: tuple[Annotated[float, Field(gt=0, le=255)], ...] = (2.0, 8.0)
    """Largest change of a pixel by an attack, in 1/255."""
    pgd_steps: Annotated[int, Field(gt=0)] = 7
    """Gradient steps of PGD (Madry et al., arXiv:1706.06083, train on CIFAR with 7)."""
    corruptions: tuple[Annotated[str, one_of(CORRUPTIONS)], ...] = tuple(CORRUPTIONS)
    """Names in `slim.measure.corruptions.CORRUPTIONS`."""
    severity: Annotated[int, Field(ge=1, le=5)] = 3
    """Severity of every corruption."""


def _unknown() -> Any:
    """NaN, and then not in reports: what is not measured, or was not when they were made."""
    return Field(default_factory=lambda: math.nan, exclude_if=math.isnan)


class Measures(Schema):
    """One model's row of `report.json`: the units are in the names, shares are from 0 to 1."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    name: str
    """The model's name: that of the stage that made it."""
    samples: int
    """Examples, of language tokens, that loss, top1, macro_f1, ece and agreement are of."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""
    top1: float
    """Share of examples, of language of tokens, whose label got the largest logit."""
    macro_f1: float = _unknown()
    """Mean F1 of the classes that occur among labels or predictions; not of language."""
    ece: float = _unknown()
    """Expected calibration error over 15 equal bins of confidence; not of language."""
    perplexity: float = _unknown()
    """Of language: exp(loss)."""
    bits_per_byte: float = _unknown()
    """Of language: the loss in bits per byte of text, which no choice of tokens changes."""
    max_violation: float = _unknown()
    """Of experts: how far the fullest one's load over the whole evaluation set, as far as it fills
    batches, is above the mean, max / mean - 1; a mean over layers."""
    max_violation_worst: float = _unknown()
    """The same in the layer where it is largest."""
    load_entropy: float = _unknown()
    """Of experts: the entropy of their shares of the load over its greatest value, 1 in balance; a
    mean over layers."""
    dropped_share: float = _unknown()
    """Of experts: the share of a token's choices that were not computed; a mean over layers."""
    agreement: float = Field(default_factory=lambda: math.nan)
    """Share of the examples that get the same label as from the first model, right or wrong; NaN in
    reports of before it was measured."""
    parameters: int
    """Entries of `variables["params"]`, and of the weights that are integers."""
    active_parameters: float = _unknown()
    """Of language: those that one token meets, of experts the ones it goes to; the modules that
    predict further ahead left out, as they are for training alone."""
    nonzero_parameters: int
    """Those that are not 0."""
    size_bytes: int
    """Bytes of all variables, statistics and scales too, as a file holds them; zeros count."""
    macs: int
    """Multiply-accumulates of the contractions for one example, padding included (analytic); of
    language those of the experts that its tokens go to."""
    flops: int
    """Floating-point operations for one example, padding excluded (analytic, `slim.graph.cost`); of
    language those of matrix products (`slim.models.deepseek.count`)."""
    xla_flops: float
    """XLA's own count for one example: what the compiled batch-1 program has left of them."""
    batch_size: int
    """Examples in a batch of `latency_batch_*` and `peak_memory_bytes`."""
    latency_b1_median_s: float
    """Seconds of a compiled call at batch 1 on one device, after warm-up: the median."""
    latency_b1_p90_s: float
    """The same: the 90th percentile."""
    latency_b1_ratio: float
    """The same over the first model's: median of the quotients of calls timed side by side."""
    latency_batch_median_s: float
    """Seconds of a compiled call at `batch_size` on one device, after warm-up: the median."""
    latency_batch_p90_s: float
    """The same: the 90th percentile."""
    latency_batch_ratio: float
    """The same over the first model's: median of the quotients of calls timed side by side."""
    peak_memory_bytes: int
    """Arguments (variables and inputs), results and temporaries of the call at `batch_size`."""
    robustness_images: int
    """Examples that `robustness` is of; 0 of language."""
    robustness: dict[str, float]
    """Top-1 on them by condition: `clean`, `fgsm@8/255` (epsilon), `contrast@3` (severity) ..."""


@dataclass(frozen=True)
class Measured:
    """A model to measure.

    Attributes:
        name: what its row is called; unique.
        predict: `(variables, inputs) -> logits`, evaluation mode, inputs float32
            `(batch, height, width, channels)` in [0, 1], any normalization is inside, or token ids
            int32 `(batch, length)`. Give models that differ in values alone the same (or an equal)
            function, and they share programs.
        variables: what `predict` reads: `params`, and whatever else (`batch_stats`), on the devices
            that `put` places batches on.
        differentiable: as `predict`, for attacks, which need gradients; None: `predict` has them.
        alone: as `predict`, for one device, if that is laid out over several.
        weights: what parameters are counted in; None: `variables["params"]`.
        observe: `predict` that gives how busy experts are too; None where there are none.
        active_parameters: see `Measures`.
        products: multiply-accumulates for one example, where its program, which pads, says too
            much; None: as the program has them.
    """

    name: str
    predict: Predict
    variables: PyTree
    differentiable: Predict | None = None
    alone: Predict | None = None
    weights: PyTree | None = None
    observe: Observe | None = None
    active_parameters: float = math.nan
    products: int | None = None


def measure(
    models: Sequence[Measured],
    batches: Iterable[Batch],
    config: EvaluateConfig,
    *,
    put: Callable[[Batch], Batch] = jax.device_put,
    modality: Modality = IMAGE,
    bytes_per_token: float = math.nan,
) -> list[Measures]:
    """The rows of all models, in order; the first is the baseline of the latency ratios.

    Args:
        models: at least one.
        batches: the evaluation set, read once: `input` uint8 `(batch, height, width, channels)` or
            int32 `(batch, length)`, `label` int32 `(batch,)`, of language `(batch, length)`,
            `weight` float32 `(batch,)`, 0 for rows that only pad.
        config: see `EvaluateConfig`.
        put: places a batch where the variables are: on the mesh, sharded over `batch`.
        modality: what examples are.
        bytes_per_token: of the text, if it is language.

    Raises:
        ValueError: no models, two of one name, or no example that counts.
    """
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models = {names} must be at least one, each of another name")
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("batches is empty: the evaluation set has no examples")
    batches = itertools.chain([first], batches)
    quality = _quality(models, batches, config, put, modality, bytes_per_token)
    work = _work(models, np.asarray(first["input"]), config)
    return [
        Measures(name=model.name, **quality[model.name], **_size(model), **work[model.name])
        for model in models
    ]


def _size(model: Measured) -> dict[str, Any]:
    """The measures that need nothing but the variables."""
    weights = model.variables["params"] if model.weights is None else model.weights
    return {
        "parameters": size.entries(weights),
        "nonzero_parameters": size.nonzero(weights),
        "size_bytes": size.stored_bytes(model.variables),
        "active_parameters": model.active_parameters,
    }


@jax.jit
def _first(weights: jax.Array, count: jax.Array) -> jax.Array:
    """The weights with all but the first `count` rows that count set to 0."""
    return jnp.where(jnp.cumsum(weights > 0) <= count, weights, 0)


def _forward(models: Sequence[Measured]) -> dict[Predict, jax.stages.Wrapped]:
    """Each different `predict`, jitted once, with the variables as an argument."""
    return {predict: jax.jit(predict) for predict in {model.predict for model in models}}


def _quality(
    models: Sequence[Measured],
    batches: Iterable[Batch],
    config: EvaluateConfig,
    put: Callable[[Batch], Batch],
    modality: Modality,
    bytes_per_token: float,
) -> dict[str, dict[str, Any]]:
    """Scores on all examples, and top-1 under attacks and corruptions on the first of them."""
    scored: Scoring | None = None
    agreeing = jax.jit(classification.agreeing)
    forward = _forward(models)
    conditions = {
        model.predict: changes(model.differentiable or model.predict, config) for model in models
    }
    observe = {each: jax.jit(each) for each in {model.observe for model in models} if each}
    loads: dict[str, Loads] = {}
    scores: dict[str, Sums] = {}
    agreed: dict[str, Any] = {model.name: 0.0 for model in models}
    under: dict[str, dict[str, Sums]] = {model.name: {} for model in models}
    left = 0 if modality == LANGUAGE else config.robustness_images
    for index, batch in enumerate(batches):
        batch = put(batch)
        inputs, labels, weights = _prepare(batch["input"]), batch["label"], batch["weight"]
        chosen = _first(weights, jnp.asarray(left))
        key = jax.random.fold_in(jax.random.key(NOISE_SEED), index)
        reference: jax.Array | None = None
        for model in models:
            if model.observe is None:
                logits = forward[model.predict](model.variables, inputs)
            else:
                logits, busy = observe[model.observe](model.variables, inputs)
                busy = of_whole(busy, weights)
                before = loads.get(model.name)
                loads[model.name] = busy if before is None else jax.tree.map(jnp.add, before, busy)
            if scored is None:
                scored = scoring(modality, logits.shape[-1], bytes_per_token=bytes_per_token)
                update, empty = jax.jit(scored.update), scored.init()
            reference = logits if reference is None else reference
            agreed[model.name] += agreeing(logits, reference, weights)
            scores[model.name] = update(scores.get(model.name, empty), logits, labels, weights)
            tried = conditions[model.predict] if left > 0 else {}
            for name, change in tried.items():
                changed = change(model.variables, key, inputs, labels)
                logits = forward[model.predict](model.variables, changed)
                acc = under[model.name].get(name, empty)
                under[model.name][name] = update(acc, logits, labels, chosen)
        left -= int((chosen > 0).sum())
    assert scored is not None
    return {
        model.name: _read(scored, scores[model.name], agreed[model.name], under[model.name])
        | (load_scores(loads[model.name]) if model.name in loads else {})
        for model in models
    }


def _read(scored: Scoring, scores: Sums, agreed: Any, under: Mapping[str, Sums]) -> dict[str, Any]:
    """The accumulated sums as entries of `Measures`."""
    result = jax.jit(scored.result)
    samples = round(float(scored.samples(scores)))
    if samples == 0:
        raise ValueError("batches have no example of weight above 0: nothing to measure")
    return {
        "samples": samples,
        **{name: float(value) for name, value in result(scores)._asdict().items()},
        "agreement": float(agreed) / samples,
        "robustness_images": round(float(scored.samples(under["clean"]))) if under else 0,
        "robustness": {name: float(result(acc).top1) for name, acc in under.items()},
    }


def on_one_device(tree: PyTree) -> PyTree:
    """A copy of a sharded or replicated pytree on this process's first device."""

    def local(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_put(leaf, jax.local_devices()[0])

    return jax.tree.map(local, tree)


def _work(
    models: Sequence[Measured], inputs: np.ndarray, config: EvaluateConfig
) -> dict[str, dict[str, Any]]:
    """FLOPs, latency and memory of each model on one device, all latencies taken in turn."""
    alone = {model.name: model.alone or model.predict for model in models}
    forward = {predict: jax.jit(predict) for predict in alone.values()}
    variables = {model.name: on_one_device(model.variables) for model in models}

    def programs(batch_size: int) -> tuple[dict[str, jax.stages.Compiled], dict[str, Latency]]:
        batch = on_one_device(_prepare(np.resize(inputs, (batch_size, *inputs.shape[1:]))))
        made = {
            name: forward[predict].lower(variables[name], batch).compile()
            for name, predict in alone.items()
        }
        calls = {name: partial(call, variables[name], batch) for name, call in made.items()}
        return made, in_turn(calls, rounds=config.latency_rounds)

    single, single_latency = programs(1)
    batched, batched_latency = programs(config.batch_size)
    one = jax.eval_shape(prepare, jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype))
    rows = {}
    for model in models:
        macs, flops = model.products, 2 * (model.products or 0)
        if macs is None:
            cost = graph.cost(graph.trace(alone[model.name], model.variables, one))
            macs, flops = cost.macs, cost.flops
        rows[model.name] = {
            "macs": macs,
            "flops": flops,
            "xla_flops": compiled.xla_flops(single[model.name]),
            "batch_size": config.batch_size,
            "peak_memory_bytes": compiled.peak_bytes(batched[model.name]),
            **_entries("latency_b1", single_latency, model.name, models[0].name),
            **_entries("latency_batch", batched_latency, model.name, models[0].name),
        }
    return rows


def _entries(
    prefix: str, latencies: Mapping[str, Latency], name: str, baseline: str
) -> dict[str, float]:
    """A model's latency as entries of `Measures`."""
    return {
        f"{prefix}_median_s": latencies[name].median_s,
        f"{prefix}_p90_s": latencies[name].p90_s,
        f"{prefix}_ratio": latencies[name].ratio(latencies[baseline]),
    }
