"""A part of `experiments.bench.quant`: ResNet-20 quantized after training, beside qwix.

The committed network, on Fashion-MNIST's test images, calibrated on the same training images. Every
convolution and the last layer are quantized in both, kernels by output channel, data with one scale
a site. `default` rows compare min-max ranges, the default of both; `best` rows the best of ours
with the best of qwix's, by the figure itself. Accuracy moves in whole images, so beside it stands
how far the logits are from the float network's: root mean square, relative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import qwix_models
from experiments.bench.record import Row
from experiments.data import sets
from experiments.data.config import DataConfig
from experiments.weights import safetensors_store
from slim import models, quant
from slim.graph import trace
from slim.quant import Activations, Policy, Rule, Weights

PyTree = Any
Logits = Callable[[jax.Array], Any]

BASELINE = "experiments/baselines/fashion_resnet20.safetensors"
LAST = "head"
BATCH = 64
CALIBRATION_BATCHES = 8
BITS: Mapping[str, tuple[str, str | None]] = {
    "W8A8": ("int8", "int8"),
    "W4A8": ("int4", "int8"),
    "W4A4": ("int4", "int4"),
    "W4": ("int4", None),
}


class Batch(NamedTuple):
    """Normalized images `(batch, height, width, channels)` and labels `(batch,)`."""

    images: jax.Array
    labels: jax.Array


@dataclass(frozen=True)
class Subject:
    """What is quantized.

    Attributes:
        module: a Linen classifier with batch statistics, called with `train`.
        variables: its trained variables.
        calibration: batches of one shape.
        test: all images to judge by.
    """

    module: nn.Module
    variables: dict[str, Any]
    calibration: Sequence[Batch]
    test: Batch

    def predict(self, variables: PyTree, images: jax.Array) -> Any:
        """Float logits."""
        return self.module.apply(variables, images, train=False)

    def train(self, variables: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
        """Float logits in training, and the new batch statistics."""
        logits, changed = self.module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, dict(changed)

    @property
    def batches(self) -> list[tuple[jax.Array]]:
        """The calibration's images."""
        return [(batch.images,) for batch in self.calibration]


@dataclass(frozen=True)
class Way:
    """How ours finds ranges.

    Attributes:
        ranges: the name of kernels' range and of the data's observer.
        anew: batch statistics are estimated again, on the calibration's images.
    """

    ranges: str
    anew: bool = False


WAYS: Mapping[str, Way] = {
    "min-max": Way("minmax"),
    "MSE": Way("mse"),
    "min-max, batch statistics anew": Way("minmax", anew=True),
    "MSE, batch statistics anew": Way("mse", anew=True),
}


class Judged(NamedTuple):
    """A quantized network's share of right answers, and its logits' distance from the float's."""

    accuracy: float
    error: float


def fashion(count: int) -> tuple[Subject, list[Batch]]:
    """ResNet-20 with its weights and data, and so many batches that follow the calibration's.

    Raises:
        ConfigError: Fashion-MNIST is not there.
    """
    data = sets.load(DataConfig(name="fashion_mnist", batch_size=BATCH))
    info = data.info

    def batch(examples: Mapping[str, np.ndarray]) -> Batch:
        images = examples["input"].astype(np.float32) / 255
        normal = (images - np.array(info.mean, np.float32)) / np.array(info.std, np.float32)
        return Batch(jnp.asarray(normal), jnp.asarray(examples["label"], jnp.int32))

    drawn = [batch(data.batch_at(0, step)) for step in range(CALIBRATION_BATCHES + count)]
    # The last batch is filled up, to have the shape of the others.
    judged = len(data.eval)
    test = [batch(examples) for examples in data.eval_batches()]
    variables, _ = safetensors_store.load(BASELINE)
    subject = Subject(
        models.create("resnet20", num_classes=info.num_classes),
        jax.tree.map(jnp.asarray, variables),
        drawn[:CALIBRATION_BATCHES],
        Batch(*(jnp.concatenate(leaves)[:judged] for leaves in zip(*test, strict=True))),
    )
    return subject, drawn[CALIBRATION_BATCHES:]


def policy(weights: str, activations: str | None, ranges: str = "minmax") -> Policy:
    """Every site alike, the first and the last too."""
    data = Activations(activations, ranges) if activations else None
    return Policy((Rule("*", Weights(weights, range=ranges), data),), edges=None)


def ours(subject: Subject, weights: str, activations: str | None, way: Way) -> Logits:
    """The network quantized by `slim.quant`."""
    variables, images = subject.variables, subject.calibration[0].images
    graph = trace(subject.predict, variables, images)
    sites = quant.assign(graph, policy(weights, activations, way.ranges))
    scales = quant.calibrate(graph, sites, variables, subject.batches)
    if way.anew:
        training = quant.simulate(trace(subject.train, variables, images), sites)
        variables = quant.reestimate(
            lambda variables, images: training(variables, scales, images),
            variables,
            subject.batches,
        )
    simulated = quant.simulate(graph, sites)
    return lambda images: simulated(variables, scales, images)


def theirs(subject: Subject, weights: str, activations: str | None, calibration: str) -> Logits:
    """The network quantized by qwix.

    Raises:
        RuntimeError: it rounds at other sites than ours.
    """
    module = qwix_models.simulated(subject.module, weights, activations, calibration, LAST)
    images = [batch.images for batch in subject.calibration]
    variables = qwix_models.calibrated(module, subject.variables, images)
    require_same_sites(subject, variables, activations)
    return lambda images: module.apply(variables, images, train=False)


def require_same_sites(subject: Subject, variables: PyTree, activations: str | None) -> None:
    """Compares ours with the sites that the peer has statistics of: all but the last.

    Raises:
        RuntimeError: they are not the same.
    """
    graph = trace(subject.predict, subject.variables, subject.calibration[0].images)
    named = {f"params/{'/'.join(path[:-1])}/kernel" for path in _statistics(variables)}
    expected = set(quant.assign(graph, policy("int8", None))) if activations else set()
    if named != expected - {f"params/{LAST}/kernel"}:
        raise RuntimeError(f"sites of one alone: {', '.join(sorted(named ^ expected))}")


def _statistics(variables: PyTree) -> set[tuple[str, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables.get(qwix_models.STATISTICS, {}))
    return {tuple(key.key for key in path[:-1]) for path, _ in leaves}


def judge(logits: Logits, test: Batch, exact: np.ndarray) -> Judged:
    """On all test images; `exact` are the float network's logits."""
    found = evaluate(logits, test)
    accuracy = float(np.mean(found.argmax(-1) == np.asarray(test.labels)))
    return Judged(accuracy, float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))))


def evaluate(logits: Logits, test: Batch, size: int = 500) -> np.ndarray:
    """The logits of all test images."""
    compiled = jax.jit(logits)
    starts = range(0, len(test.images), size)
    return np.concatenate([np.asarray(compiled(test.images[i : i + size])) for i in starts])


def measure(subject: Subject) -> list[Row]:
    """The rows of all bits.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    exact = evaluate(lambda images: subject.predict(subject.variables, images), subject.test)
    right = float(np.mean(exact.argmax(-1) == np.asarray(subject.test.labels)))
    rows = [Row("ResNet-20 in floats: accuracy", right)]
    for name, (weights, activations) in BITS.items():
        found = {
            title: judge(ours(subject, weights, activations, way), subject.test, exact)
            for title, way in WAYS.items()
        }
        tried = qwix_models.CALIBRATIONS if activations else qwix_models.CALIBRATIONS[:1]
        peers = {
            title: judge(theirs(subject, weights, activations, title), subject.test, exact)
            for title in tried
        }
        rows += judged_rows(f"ResNet-20 {name}", list(found.values()), list(peers.values()))
        rows += [
            Row(f"ResNet-20 {name}, {side}, {title}: {field}", value)
            for side, each in (("ours", found), ("qwix", peers))
            for title, figures in each.items()
            for field, value in figures._asdict().items()
        ]
    return rows


def judged_rows(name: str, ours: Sequence[Judged], peers: Sequence[Judged]) -> list[Row]:
    """The first of ours beside the first of the peer's, and the best beside the best."""

    def best(found: Sequence[Judged]) -> Judged:
        return Judged(max(each.accuracy for each in found), min(each.error for each in found))

    pairs = {"default": (ours[0], peers[0]), "best": (best(ours), best(peers))}
    return [
        row
        for title, (mine, peer) in pairs.items()
        for row in (
            Row(f"{name}, {title}: accuracy", mine.accuracy, peer.accuracy, ">= 1.0"),
            Row(f"{name}, {title}: logits' error", mine.error, peer.error, "<= 1.0"),
        )
    ]
