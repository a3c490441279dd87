"""A part of `experiments.bench.quant`: XLA's integer path beside its floats, on this device.

`slim.quant.execute` on what `convert` made of a model, beside the float function: W8A8, where data
are rounded and products are of int8, and weights alone in int8, which are scaled back to floats.
No goals: on a CPU these are for numbers that are the integers' own, not for speed, which is what
the exported forms are for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.record import Row
from experiments.timing import in_turn
from slim import models, quant
from slim.graph import trace
from slim.models.bert import SentenceEmbedding, bert_config
from slim.quant import Activations, Policy, Rule, Weights

PyTree = Any

SECONDS = 10.0
SPECS = {"W8A8": Activations(), "W8": None}
BATCHES = (1, 64)
SENTENCES, LENGTH = 8, 64
# Rows, contracted, columns; the second is of MiniLM's hidden layer for 8 sentences.
PRODUCTS = ((512, 512, 512), (SENTENCES * LENGTH, 384, 1536), (2048, 2048, 2048))


def measure() -> list[Row]:
    """The rows of the products, ResNet-20 and MiniLM, all of random weights."""
    rng = np.random.default_rng(0)
    rows = []
    for shape in PRODUCTS:
        m, k, n = shape
        kernel = {"kernel": jnp.asarray(rng.normal(size=(k, n)), jnp.float32)}
        x = jnp.asarray(rng.normal(size=(m, k)), jnp.float32)
        rows += compare(f"product of {m}x{k} and {k}x{n}", _product, kernel, x)
    resnet = partial(models.create("resnet20", num_classes=10).apply, train=False)
    for batch in BATCHES:
        images = jnp.asarray(rng.normal(size=(batch, 28, 28, 1)), jnp.float32)
        variables = _initial(models.create("resnet20", num_classes=10), images)
        rows += compare(f"ResNet-20, batch {batch}", resnet, variables, images)
    bert = SentenceEmbedding(bert_config("minilm_l6"))
    ids = jnp.asarray(rng.integers(0, 30_000, (SENTENCES, LENGTH)), jnp.int32)
    inputs = (ids, jnp.ones_like(ids))
    return rows + compare(
        f"MiniLM, {SENTENCES} sentences of {LENGTH}",
        partial(bert.apply, train=False),
        _initial(bert, *inputs),
        *inputs,
    )


def compare(name: str, fn: Callable[..., Any], params: PyTree, *inputs: jax.Array) -> list[Row]:
    """Latency of each of `SPECS` beside the float function's."""
    graph = trace(fn, params, *inputs)
    calls = {"float": partial(jax.jit(fn), params, *inputs)}
    for spec, activations in SPECS.items():
        sites = quant.assign(graph, Policy((Rule("*", Weights(), activations),), edges=None))
        scales = quant.calibrate(graph, sites, params, [inputs])
        small = quant.convert(graph, sites, params, scales)
        calls[spec] = partial(jax.jit(quant.execute(graph, sites)), small, *inputs)
    times = in_turn(calls, min_seconds=SECONDS)
    floats = times.pop("float")
    return [
        Row(
            f"{name}: {spec} over float",
            1e3 * each.median_s,
            1e3 * floats.median_s,
            unit="ms",
            paired=each.ratio(floats),
        )
        for spec, each in times.items()
    ]


def _product(params: PyTree, x: jax.Array) -> jax.Array:
    result: jax.Array = x @ params["kernel"]
    return result


def _initial(module: Any, *inputs: jax.Array) -> PyTree:
    return jax.jit(partial(module.init, train=False))(jax.random.key(0), *inputs)
