"""A part of `experiments.bench.quant`: ResNet-20 trained at its bits, beside qwix.

A step is loss, gradients, batch statistics and SGD with momentum. Ours passes gradients straight
through with scales as calibrated (`fixed`), or learns them too (`lsq`), which the peer's providers
do not: one finds them in every step, the other averages what it sees. Nothing is donated, so that
every call does the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import qwix_models
from experiments.bench.quantized_resnet import (
    BATCH,
    BITS,
    LAST,
    Batch,
    Logits,
    Subject,
    evaluate,
    policy,
)
from experiments.bench.record import Row
from experiments.timing import in_turn
from slim import quant
from slim.graph import trace
from slim.quant import Policy

PyTree = Any

RUNS, STEPS = 3, 100
RATE = 0.01
SECONDS = 60.0


def rate(step: jax.Array) -> jax.Array:
    """The learning rate: from `RATE` along a cosine to 0."""
    return RATE / 2 * (1 + jnp.cos(jnp.pi / STEPS * step.astype(jnp.float32)))


OPTIMIZER = optax.sgd(rate, momentum=0.9)


class Trainee(NamedTuple):
    """A network to train.

    Attributes:
        loss: `loss(trained, state, batch) -> (loss, new state)`.
        trained: what gradients are of.
        state: what else changes from step to step.
        logits: `logits(trained, state)`: the network in evaluation.
    """

    loss: Callable[[PyTree, PyTree, Batch], tuple[jax.Array, PyTree]]
    trained: PyTree
    state: PyTree
    logits: Callable[[PyTree, PyTree], Logits]


def flax_trainee(module: nn.Module, variables: PyTree) -> Trainee:
    """A Linen module, float or quantized by qwix."""

    def loss(params: PyTree, state: PyTree, batch: Batch) -> tuple[jax.Array, PyTree]:
        return _loss(module, {"params": params, **state}, *batch)

    def logits(params: PyTree, state: PyTree) -> Logits:
        return lambda images: module.apply({"params": params, **state}, images, train=False)

    state = {name: tree for name, tree in variables.items() if name != "params"}
    return Trainee(loss, variables["params"], state, logits)


def our_trainee(subject: Subject, policy: Policy, trained: str) -> Trainee:
    """The network quantized by `slim.quant`, its scales trained as `quant.TRAINED` says."""
    batch, rounding = subject.calibration[0], quant.TRAINED[trained]
    graph = trace(subject.predict, subject.variables, batch.images)
    sites = quant.assign(graph, policy)
    scales = quant.calibrate(graph, sites, subject.variables, subject.batches)
    vectors, rest = quant.separate(scales)
    of_loss = trace(partial(_loss, subject.module), subject.variables, *batch)
    simulated = quant.simulate(of_loss, sites, weights=rounding, data=rounding)
    evaluated = quant.simulate(graph, sites)

    def loss(trained: PyTree, state: PyTree, batch: Batch) -> tuple[jax.Array, PyTree]:
        params, vectors = trained
        result: tuple[jax.Array, PyTree] = simulated(
            {"params": params, **state}, quant.join(sites, vectors, rest), *batch
        )
        return result

    def logits(trained: PyTree, state: PyTree) -> Logits:
        params, vectors = trained
        scales = quant.join(sites, vectors, rest)
        return lambda images: evaluated({"params": params, **state}, scales, images)

    state = {"batch_stats": subject.variables["batch_stats"]}
    return Trainee(loss, (subject.variables["params"], vectors), state, logits)


def _loss(
    module: nn.Module, variables: PyTree, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, PyTree]:
    mutable = [name for name in variables if name != "params"]
    logits, changed = module.apply(variables, images, train=True, mutable=mutable)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, dict(changed)


def make_step(trainee: Trainee) -> Callable[[PyTree, Batch], tuple[PyTree, jax.Array]]:
    """`step((trained, state, slots), batch) -> (the same after it, loss)`."""

    def step(carry: PyTree, batch: Batch) -> tuple[PyTree, jax.Array]:
        trained, state, slots = carry
        gradient = jax.value_and_grad(trainee.loss, has_aux=True)
        (value, changed), grads = gradient(trained, state, batch)
        updates, slots = OPTIMIZER.update(grads, slots)
        return (optax.apply_updates(trained, updates), changed, slots), value

    return step


def start(trainee: Trainee) -> PyTree:
    """What the first step takes."""
    return trainee.trained, trainee.state, OPTIMIZER.init(trainee.trained)


def accuracy(trainee: Trainee, runs: Sequence[Sequence[Batch]], test: Batch) -> float:
    """The mean over runs, each from the same start, of the accuracy after a step on each batch.

    Raises:
        RuntimeError: a loss is not finite.
    """
    step, labels, found = jax.jit(make_step(trainee)), np.asarray(test.labels), []
    for batches in runs:
        carry = start(trainee)
        for done, batch in enumerate(batches, 1):
            carry, loss = step(carry, batch)
            if not np.isfinite(loss):
                raise RuntimeError(f"after {done} steps the loss is {loss}")
        logits = evaluate(trainee.logits(carry[0], carry[1]), test)
        found.append(float(np.mean(logits.argmax(-1) == labels)))
    return float(np.mean(found))


def step_rows(subject: Subject) -> list[Row]:
    """The W8A8 step over the float one, ours beside the peer's.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    variables = subject.variables
    images = [batch.images for batch in subject.calibration]
    simulated = qwix_models.simulated(subject.module, *BITS["W8A8"], "minmax", LAST)
    peers = {
        "QtProvider": flax_trainee(qwix_models.in_integers(subject.module), variables),
        "OdmlQatProvider": flax_trainee(
            simulated, qwix_models.calibrated(simulated, variables, images)
        ),
    }
    mine = {name: our_trainee(subject, policy(*BITS["W8A8"]), name) for name in ("fixed", "lsq")}
    batch = subject.calibration[0]
    trainees = {"float": flax_trainee(subject.module, variables), **mine, **peers}
    calls = {
        name: partial(jax.jit(make_step(trainee)), start(trainee), batch)
        for name, trainee in trainees.items()
    }
    times = in_turn(calls, min_seconds=SECONDS)
    rows = [
        Row(f"ResNet-20, batch {BATCH}: {name} train step", 1e3 * times[name].median_s, unit="ms")
        for name in trainees
    ]
    for name in mine:
        rows += [
            Row(
                f"W8A8 train step over float's: {name} beside {peer}",
                times[name].ratio(times["float"]),
                times[peer].ratio(times["float"]),
                "<= 1.0",
                paired=times[name].ratio(times[peer]),
            )
            for peer in peers
        ]
    return rows


def accuracy_rows(subject: Subject, batches: Sequence[Batch]) -> list[Row]:
    """The accuracy after a short W4A4 training from the same weights, on the same batches.

    Ours starts from MSE ranges; the peer's figure is the better of its two calibrations, and both
    are recorded. One run moves by some tenths of a point with the batches it sees, so the figures
    are means over runs.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    bits, images = BITS["W4A4"], [batch.images for batch in subject.calibration]
    runs = [batches[i : i + STEPS] for i in range(0, len(batches), STEPS)]

    def peer(calibration: str) -> float:
        module = qwix_models.simulated(subject.module, *bits, calibration, LAST)
        variables = qwix_models.calibrated(module, subject.variables, images)
        return accuracy(flax_trainee(module, variables), runs, subject.test)

    mine = accuracy(our_trainee(subject, policy(*bits, "mse"), "lsq"), runs, subject.test)
    peers = {calibration: peer(calibration) for calibration in qwix_models.CALIBRATIONS}
    title = f"ResNet-20 W4A4, trained for {STEPS} steps of {BATCH}"
    return [
        Row(f"{title}: accuracy", mine, max(peers.values()), ">= 1.0"),
        *(Row(f"{title}, qwix, {name}: accuracy", value) for name, value in peers.items()),
    ]
