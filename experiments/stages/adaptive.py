"""Measures a model's variants, and serving by them under a load that changes.

The stage leaves `adaptive.json` and `adaptive.png` in its directory, and no model. All variants run
on slices of one set of weights, from images in host memory to answers there, on one device. The
same arrivals are then served three times in real time: by `slim.dynamic.choose_variant`, by the
widest alone and by the narrowest alone.
"""

import logging
from collections import Counter
from functools import partial
from itertools import pairwise
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from pydantic import Field

from experiments import evaluation, report, serving
from experiments.network import Network, Variables, count, prepare
from experiments.report.adaptive import Adaptive, Calls, Phase, Service, VariantRow
from experiments.schema import ConfigError, Schema, refused
from experiments.serving import Policy, Served
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.timing import Latency, in_turn
from slim import graph
from slim.dynamic import Variant, choose_variant

LOG = logging.getLogger("slim")

ADAPTIVE = "adaptive"
TARGET = 3.0  # times that the widest takes for the most examples


class AdaptiveConfig(Schema):
    """A load, and how variants are chosen under it.

    Attributes:
        sizes: examples in a call, ascending from 1; a call of fewer is padded to the next.
        latency_rounds: samples of each variant's latency at each size.
        target_ms: milliseconds from an example's arrival to its answer; None: three times what
            the widest takes for a call of the most examples.
        loads: examples that arrive, in phases, as a share of what the widest can serve in calls of
            the most examples.
        phase_seconds: of each.
        margin: the share of the target that a more accurate variant must leave to be changed to.
        patience: for how many choices in a row.
        examples: so many of the evaluation split, the first, are served, over and over.
    """

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = (1, 8, 64)
    latency_rounds: Annotated[int, Field(ge=1)] = 30
    target_ms: Annotated[float, Field(gt=0)] | None = None
    loads: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        0.3,
        1.5,
        0.3,
    )
    phase_seconds: Annotated[float, Field(gt=0)] = 3.0
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=1)] = 3
    examples: Annotated[int, Field(ge=1)] = 4096

    @pydantic.model_validator(mode="after")
    def _ascending(self) -> "AdaptiveConfig":
        if self.sizes[:1] != (1,) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes = {self.sizes}: must begin with 1 and ascend")
        return self


class Server:
    """Runs variants on examples in host memory."""

    def __init__(
        self, network: Network, variables: Variables, inputs: np.ndarray, sizes: tuple[int, ...]
    ) -> None:
        """Keeps one set of weights on one device.

        Args:
            network: with variants.
            variables: its, on the host.
            inputs: examples, served over and over.
            sizes: of calls.
        """
        self._variables = jax.device_put(variables, jax.local_devices()[0])
        self._inputs, self._sizes = inputs, sizes
        plan = network.nested_plan

        def answer(name: str, variables: Variables, inputs: jax.Array) -> jax.Array:
            logits = network.variants[name].predict(plan.narrow(name, variables), prepare(inputs))
            return jnp.argmax(logits, axis=-1)

        self._programs = {name: jax.jit(partial(answer, name)) for name in plan.variants}

    def __call__(self, variant: str, first: int, count: int) -> np.ndarray:
        """The labels that a variant gives so many examples from the `first` on."""
        size = next(size for size in self._sizes if size >= count)
        places = np.arange(first, first + size) % len(self._inputs)
        rows = jax.device_put(self._inputs[places], jax.local_devices()[0])
        return np.asarray(self._programs[variant](self._variables, rows))[:count]


def run(context: Context, config: AdaptiveConfig, model: Model | None) -> Result:
    """Measures the variants, then serves.

    Raises:
        ConfigError: the model has no variants, none meets the target, or nothing arrives.
    """
    assert model is not None
    network = context.network.shrunk(model.plans)
    with refused(context.name):
        plan = network.nested_plan
    source = context.dataset.eval
    inputs, labels = source.gather(np.arange(min(config.examples, len(source))))
    server = Server(network, evaluation.to_host(model.variables), inputs, config.sizes)
    latency = in_turn(
        {
            f"{name}@{size}": partial(server, name, 0, size)
            for name in plan.variants
            for size in config.sizes
        },
        rounds=config.latency_rounds,
    )
    rows = {name: _row(context, config, model, name, latency) for name in plan.variants}
    table = {
        name: Variant(row.top1, {calls.size: calls.median_s for calls in row.calls})
        for name, row in rows.items()
    }
    whole, most = table[plan.widest], max(config.sizes)
    full = whole.expected(most)
    target = TARGET * full if config.target_ms is None else config.target_ms / 1e3
    with refused(f"{context.name}.target_ms"):
        choose_variant(table, target, 1)
    rates = [load * most / full for load in config.loads]
    times = serving.arrivals(rates, config.phase_seconds, context.stage_seed)
    if not len(times):
        raise ConfigError(
            f"{context.name}.loads = {config.loads}: nothing arrives in {len(rates)} phases of "
            f"{config.phase_seconds:g} s; raise them, or phase_seconds"
        )
    policies: dict[str, Policy] = {
        ADAPTIVE: serving.Adaptive(table, config.margin, config.patience),
        f"always {plan.widest}": serving.Always(plan.widest),
        f"always {list(table)[-1]}": serving.Always(list(table)[-1]),
    }
    record = Adaptive(
        target_s=target,
        examples=len(times),
        load=tuple(Phase(rate=rate, seconds=config.phase_seconds) for rate in rates),
        variants=rows,
        policies={
            name: _service(context, server, labels, times, table, target, most, name, policy)
            for name, policy in policies.items()
        },
    )
    if jax.process_index() == 0:
        report.write_adaptive(record, context.directory)
    return Result()


def _row(
    context: Context, config: AdaptiveConfig, model: Model, name: str, latency: dict[str, Latency]
) -> VariantRow:
    """A variant's accuracy on the whole evaluation split, its size and its times."""
    network = context.network.shrunk(model.plans)
    small = network.variants[name]
    variables = network.nested_plan.narrow(name, model.variables)
    scores = evaluation.make(small, context.dataset, context.mesh)(variables)
    calls = tuple(
        Calls(size=size, median_s=found.median_s, p90_s=found.p90_s)
        for size in config.sizes
        for found in (latency[f"{name}@{size}"],)
    )
    LOG.info(
        "%s: %s has %.2f%%, calls of %s take %s ms",
        context.name,
        name,
        100 * scores["top1"],
        ", ".join(str(each.size) for each in calls),
        ", ".join(f"{1e3 * each.median_s:.3g}" for each in calls),
    )
    return VariantRow(
        top1=scores["top1"],
        parameters=count(variables["params"]),
        macs=graph.cost(small.graph()).macs,
        calls=calls,
    )


def _service(
    context: Context,
    server: Server,
    labels: np.ndarray,
    times: np.ndarray,
    table: dict[str, Variant],
    target: float,
    most: int,
    name: str,
    policy: Policy,
) -> Service:
    """What a policy makes of the arrivals."""
    answers: list[np.ndarray] = []

    def answer(variant: str, first: int, count: int) -> None:
        answers.append(server(variant, first, count))

    calls = serving.serve(times, answer, table, target, policy, most=most)
    right = np.concatenate(answers) == labels[np.arange(len(times)) % len(labels)]
    found = _summary(times, calls, target, float(right.mean()))
    LOG.info(
        "%s: %s: %.1f%% of the answers within %.3g ms, %.2f%% right",
        context.name,
        name,
        100 * found.examples_in_time,
        1e3 * target,
        100 * found.top1,
    )
    return found


def _summary(times: np.ndarray, calls: list[Served], target: float, top1: float) -> Service:
    seconds = serving.latencies(times, calls)
    oldest = seconds[[call.first for call in calls]]
    answered: Counter[str] = Counter()
    for call in calls:
        answered[call.variant] += call.examples
    return Service(
        top1=top1,
        batches=len(calls),
        batches_in_time=float((oldest <= target).mean()),
        examples_in_time=float((seconds <= target).mean()),
        p99_s=float(np.percentile(seconds, 99)),
        changes=sum(one.variant != other.variant for one, other in pairwise(calls)),
        shares={name: each / len(times) for name, each in answered.items()},
    )


STAGE = Stage(AdaptiveConfig, run, needs_model=True, needs_floats=False)
