"""A part of `experiments.bench.quant`: the time it takes to quantize MiniLM's weights, beside qwix.

To int8 by output channel, all 36 matrices of the encoder, in memory; the values do not matter to
the time, so they are random. `weights`: from what is known of the model, the graph here and the
abstract parameters there. `whole`: from the module, which ours traces and qwix initializes
abstractly. Each as the first in a process that has compiled nothing (JAX's caches are emptied) and
when all is compiled.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.bench import qwix_models
from experiments.bench.record import Row
from experiments.timing import in_turn
from slim import quant
from slim.graph import Graph, trace
from slim.models.bert import SentenceEmbedding, bert_config
from slim.quant import Policy, Quantized, Rule, Weights

PyTree = Any

GOAL = "<= 1.0"
LENGTH = 64
COLD_ROUNDS = 5
POLICY = Policy((Rule("*", Weights(), None),), edges=None)


@dataclass(frozen=True)
class Encoder:
    """What is quantized.

    Attributes:
        module: called with inputs and `train`.
        variables: its variables.
        inputs: shapes.
    """

    module: nn.Module
    variables: PyTree
    inputs: tuple[jax.ShapeDtypeStruct, ...]


def minilm() -> Encoder:
    """MiniLM-L6, random."""
    module = SentenceEmbedding(bert_config("minilm_l6"))
    ids = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    ones = jnp.ones(ids.shape, ids.dtype)
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), ones, ones)
    return Encoder(module, variables, (ids, ids))


def traced(encoder: Encoder) -> Graph:
    """The graph of the evaluation."""
    return trace(partial(encoder.module.apply, train=False), encoder.variables, *encoder.inputs)


def quantized(encoder: Encoder, graph: Graph) -> Quantized:
    """The encoder's weights quantized by `slim.quant`."""
    sites = quant.assign(graph, POLICY)
    scales = quant.weight_scales(graph, sites, encoder.variables)
    return quant.convert(graph, sites, encoder.variables, scales)


def measure(encoder: Encoder) -> list[Row]:
    """The rows.

    Raises:
        ModuleNotFoundError: qwix is not installed.
        RuntimeError: the two do not quantize equally many weights.
    """
    params = encoder.variables["params"]

    def abstract() -> Any:
        return qwix_models.abstract_weights(encoder.module, *encoder.inputs)

    graph, like = traced(encoder), abstract()
    parts: dict[str, dict[str, Callable[[], Any]]] = {
        "weights": {
            "ours": lambda: quantized(encoder, graph),
            "peer": lambda: qwix_models.quantized_weights(params, like),
        },
        "whole": {
            "ours": lambda: quantized(encoder, traced(encoder)),
            "peer": lambda: qwix_models.quantized_weights(params, abstract()),
        },
    }
    require_equal_bytes(*(call() for call in parts["weights"].values()))
    rows = []
    for part, calls in parts.items():
        ours, peer = _cold(calls)
        rows.append(Row(f"MiniLM to int8, {part}, first call", ours, peer, GOAL, "ms"))
        times = in_turn(calls)
        ours, peer = (1e3 * times[name].median_s for name in calls)
        paired = times["ours"].ratio(times["peer"])
        rows.append(Row(f"MiniLM to int8, {part}, compiled", ours, peer, GOAL, "ms", paired))
    return rows


def require_equal_bytes(ours: PyTree, peer: PyTree) -> None:
    """Compares what both stored in int8.

    Raises:
        RuntimeError: one quantized more.
    """
    here, there = (
        sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.int8)
        for tree in (ours, peer)
    )
    if here != there:
        raise RuntimeError(f"{here} weights in int8 here, {there} in qwix")


def _cold(calls: Mapping[str, Callable[[], Any]]) -> list[float]:
    """Milliseconds of each call when nothing is compiled, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(COLD_ROUNDS):
        for name, call in calls.items():
            jax.clear_caches()
            gc.collect()
            begun = perf_counter()
            jax.block_until_ready(call())
            samples[name].append(1e3 * (perf_counter() - begun))
    return [median(each) for each in samples.values()]
