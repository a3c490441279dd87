"""The models that `experiments.bench.export` writes, and their integers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import cuts
from experiments.data import movie_reviews
from experiments.data.info import TEXT
from experiments.network import Network, Variables
from experiments.weights import minilm, mobilenet_v2, safetensors_store
from slim import graph, models, quant
from slim.measure.classification import cross_entropy
from slim.models.bert import SentenceEmbedding, bert_config
from slim.quant import Activations, Policy, Quantization, Rule, Weights

BASELINE = "experiments/baselines/fashion_resnet20.safetensors"
EXAMPLES, LENGTH = 16, 128
REVIEWS = 8
"""One after the other in a text, so that it is as long as what MiniLM is asked for."""
QAT_STEPS, RATE = 5, 1e-3
INT8 = "int8"


@dataclass(frozen=True)
class Subject:
    """A model of the matrix.

    Attributes:
        network: of the model.
        variables: its own.
        inputs: examples, as the network takes them.
        original: the float model that it was made from, and its variables; None: it is that.
    """

    network: Network
    variables: Variables
    inputs: np.ndarray
    original: tuple[Network, Variables] | None = None


class Pooled(nn.Module):
    """MiniLM's embedding of a text, of token ids alone: 0 is padding."""

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        """`(batch, length)` -> `(batch, width)`."""
        embed = SentenceEmbedding(bert_config("minilm_l6"), name="model")
        found: jax.Array = embed(ids, (ids != 0).astype(jnp.int32), train=train)
        return found


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(EXAMPLES, *shape)).astype(np.float32)


def _network(name: str, inputs: np.ndarray, classes: int = 10, **options: Any) -> Network:
    module = models.create(name, num_classes=classes, **options)
    channels = inputs.shape[-1]
    return Network(module, inputs.shape[1:], (0.5,) * channels, (0.25,) * channels)


def _fresh(network: Network, inputs: np.ndarray) -> Subject:
    return Subject(network, jax.jit(network.init)(jax.random.key(0)), inputs)


def resnet20() -> Subject:
    """The committed network, of Fashion-MNIST."""
    inputs = _images(28, 28, 1)
    variables, _ = safetensors_store.load(BASELINE)
    return Subject(_network("resnet20", inputs), variables, inputs)


def at_cifar_size() -> Subject:
    """ResNet-20 of color images of 32 x 32."""
    inputs = _images(32, 32, 3)
    return _fresh(_network("resnet20", inputs), inputs)


def resnet18() -> Subject:
    """At 224 x 224."""
    inputs = _images(224, 224, 3)
    return _fresh(_network("resnet18", inputs, 1000), inputs)


def resnet50() -> Subject:
    """At 224 x 224."""
    inputs = _images(224, 224, 3)
    return _fresh(_network("resnet50", inputs, 1000), inputs)


def mobilenet() -> Subject:
    """With its published weights."""
    inputs = _images(224, 224, 3)
    network = _network("mobilenet_v2", inputs, 1000)
    return Subject(network, mobilenet_v2.load(), inputs)


def vit() -> Subject:
    """ViT-Ti of patches of 16."""
    inputs = _images(224, 224, 3)
    return _fresh(_network("vit_ti", inputs, 1000), inputs)


def sentences() -> Subject:
    """MiniLM-L6 with its published weights; labels are the greatest entries of embeddings."""
    texts, _ = movie_reviews.read("rotten_tomatoes")
    rows = [" ".join(texts[i : i + REVIEWS]) for i in range(0, EXAMPLES * REVIEWS, REVIEWS)]
    ids = np.asarray(minilm.tokenize(rows, LENGTH)[0], np.int32)
    network = Network(Pooled(), (LENGTH,), (), (), modality=TEXT)
    loaded = minilm.load()
    return Subject(network, {"params": {"model": loaded["params"]}}, ids)


def pruned() -> Subject:
    """ResNet-20 with half of each group of channels."""
    whole = resnet20()
    traced = whole.network.graph()
    sizes = {group.name: group.size for group in graph.groups(traced)}
    kept = {name: tuple(range(0, size, 2)) for name, size in sizes.items()}
    plan = graph.make_plan(traced, kept)
    small = cuts.shrink(plan, whole.variables)
    return replace(
        whole,
        network=whole.network.shrunk([plan]),
        variables=small,
        original=(whole.network, whole.variables),
    )


def trained_quantized() -> Subject:
    """ResNet-20 after a few steps of quantization-aware training on its own labels."""
    return quantized(resnet20(), steps=QAT_STEPS)


def quantized(subject: Subject, *, steps: int = 0, symmetric: bool = False) -> Subject:
    """A float subject after calibration on its inputs, and so many steps of training rounded."""
    network, variables = subject.network, subject.variables
    folding = graph.find_folding(network.graph())
    if folding.sites:
        variables = graph.fold_params(network.graph(), folding, variables)
        network = network.shrunk([folding])
    traced = network.graph()
    rule = Rule("*", Weights(INT8, range="mse"), Activations(INT8, "minmax", symmetric))
    sites = quant.assign(traced, Policy((rule,), edges=None))
    scales = quant.calibrate(traced, sites, variables, [(jnp.asarray(subject.inputs),)])
    simulated, inputs = quant.simulate(traced, sites), jnp.asarray(subject.inputs)
    labels = network.predict(variables, inputs).argmax(-1)

    @jax.jit
    def step(variables: Variables) -> Variables:
        def loss(variables: Variables) -> jax.Array:
            return cross_entropy(simulated(variables, scales, inputs), labels).mean()

        gradients = jax.grad(loss)(variables)
        return jax.tree.map(lambda v, g: v - RATE * g, variables, gradients)

    for _ in range(steps):
        variables = step(variables)
    stored = quant.store(quant.convert(traced, sites, variables, scales))
    original = subject.original or (subject.network, subject.variables)
    plan = Quantization.of(sites, stored)
    return replace(
        subject, network=network.shrunk([plan]), variables=dict(stored), original=original
    )


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "resnet20": resnet20,
    "resnet20_cifar": at_cifar_size,
    "minilm": sentences,
    "vit": vit,
    "mobilenet_v2": mobilenet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "pruned": pruned,
    "qat": trained_quantized,
}
