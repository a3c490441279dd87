"""MiniLM-L6 with its real weights, quantized after training, on 500 real sentences.

    python -m experiments.bench.sentences

What is judged is the cosine of a sentence's embedding before and after. The peer of a row is the
same numbers with min-max ranges and rounding to nearest, so that one sees what a method brings.
All runs are of the integers themselves (`slim.quant.execute`), every matrix product with a
parameter is quantized, the first and the last too; the embedding tables stay float.

A few channels of the residual stream reach tens of times its deviation and carry what attention
looks at: percentiles and KL cut them off, SmoothQuant moves them to the weights (with alpha 0.75,
the paper's where outliers are strong).

Sentences are Rotten Tomatoes' in the order of `experiments.data.movie_reviews`: the first 500 to
judge, the next 64 to calibrate, all padded to 64 tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.record import Row, record
from experiments.data import movie_reviews
from experiments.weights import minilm
from slim import paths
from slim.graph import Contraction, Graph, rewrite, trace
from slim.measure.size import stored_bytes
from slim.models.bert import SentenceEmbedding, bert_config
from slim.quant import (
    Activations,
    Assigned,
    Policy,
    Quantized,
    Rule,
    Scales,
    Weights,
    assign,
    calibrate,
    convert,
    execute,
    simulate,
    store,
)
from slim.quant.gptq import convert_by_gptq, input_hessians
from slim.quant.integer import run_site
from slim.quant.simulate import simulate_site
from slim.quant.smoothing import awq, smoothquant

PyTree = Any
Batches = Sequence[tuple[np.ndarray, np.ndarray]]

LENGTH = 64
JUDGED, BATCH = 500, 50
CALIBRATION, CALIBRATION_BATCH = 64, 32


INT8 = Weights()
GROUPS = Weights("int4", 64)


@dataclass(frozen=True)
class Way:
    """One way to quantize.

    Attributes:
        weights: of every matrix product's parameter.
        activations: of its data; None for float.
        products: of both operands of attention's two products; None for float.
        smooth: the factors that data are divided and parameters multiplied by, if any.
        by_gptq: parameters are rounded by GPTQ.
        peer: the way with the same numbers and nothing else.
        goal: of the mean cosine, or of its quotient with the peer's.
    """

    weights: Weights = INT8
    activations: Activations | None = None
    products: Activations | None = None
    smooth: Callable[..., dict[str, jax.Array]] | None = None
    by_gptq: bool = False
    peer: str = ""
    goal: str = ""


W8A8 = "W8A8 min-max"
W4 = "W4 in groups of 64, nearest"
WAYS: Mapping[str, Way] = {
    W8A8: Way(activations=Activations(), goal=">= 0.99"),
    "W8A8 percentile": Way(activations=Activations(observer="percentile"), peer=W8A8),
    "W8A8 KL": Way(activations=Activations(observer="kl"), peer=W8A8),
    "W8A8 MSE": Way(activations=Activations(observer="mse"), peer=W8A8),
    "W8A8 SmoothQuant, alpha 0.5": Way(activations=Activations(), smooth=smoothquant, peer=W8A8),
    "W8A8 SmoothQuant, alpha 0.75": Way(
        activations=Activations(),
        smooth=partial(smoothquant, alpha=0.75),
        peer=W8A8,
        goal=">= 1",
    ),
    "W8A8 min-max, attention's products too": Way(
        activations=Activations(), products=Activations(), peer=W8A8
    ),
    "W8": Way(goal=">= 0.99"),
    W4: Way(GROUPS),
    "W4 in groups of 64, MSE": Way(Weights("int4", 64, "mse"), peer=W4, goal=">= 1"),
    "W4 in groups of 64, AWQ": Way(GROUPS, smooth=awq, peer=W4, goal=">= 1"),
    "W4 in groups of 64, GPTQ": Way(GROUPS, by_gptq=True, peer=W4, goal=">= 1"),
}


class Made(NamedTuple):
    """What a way made of the model, and the seconds that it took, compilation included."""

    sites: dict[str, Assigned]
    scales: Scales
    quantized: Quantized
    seconds: float


def quantize(way: Way, graph: Graph, params: PyTree, batches: Batches) -> Made:
    """Calibrated and converted; the graph is of the batches' shapes."""
    start = perf_counter()
    rules = (Rule("*", way.weights, way.activations),)
    sites = assign(graph, Policy(rules, edges=None, products=way.products))
    factors = way.smooth(graph, sites, params, batches) if way.smooth else None
    scales = calibrate(graph, sites, params, batches, smoothing=factors)
    if way.by_gptq:
        hessians = input_hessians(graph, sites, params, batches)
        quantized = convert_by_gptq(graph, sites, params, scales, hessians)
    else:
        quantized = convert(graph, sites, params, scales)
    jax.block_until_ready(quantized)
    return Made(sites, scales, quantized, perf_counter() - start)


def embed(fn: Callable[..., Any], batches: Batches, *state: PyTree) -> np.ndarray:
    """The embeddings of all batches, `(sentences, width)`, by a function of state and batch."""
    compiled = jax.jit(fn)
    return np.concatenate([compiled(*state, *batch) for batch in batches])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of embeddings of length one, sentence by sentence."""
    return (a.astype(np.float64) * b).sum(-1)


def measure(
    ways: Mapping[str, Way],
    model: SentenceEmbedding,
    variables: PyTree,
    judged: Batches,
    calibration: Batches,
) -> list[Row]:
    """The rows of every way; a peer comes before those that it is the peer of."""
    fn = partial(model.apply, train=False)
    graph, small = trace(fn, variables, *judged[0]), trace(fn, variables, *calibration[0])
    exact = embed(fn, judged, variables)
    made: dict[str, Made] = {}
    figures: dict[str, tuple[float, float]] = {}
    rows = []
    for name, way in ways.items():
        found = made[name] = quantize(way, small, variables, calibration)
        each = cosines(embed(execute(graph, found.sites), judged, found.quantized), exact)
        mean, least = figures[name] = float(each.mean()), float(each.min())
        beside = figures.get(way.peer, (None, None))
        rows += [
            Row(f"{name}: mean cosine", mean, beside[0], way.goal),
            Row(f"{name}: least cosine", least, beside[1]),
        ]
        if way.peer:
            peer = made[way.peer]
            rows.append(
                Row(f"{name}: calibrate and convert", found.seconds, peer.seconds, unit="s")
            )
            if way.activations and way.activations.observer != "minmax":
                rows.append(Row(f"{name}: most of a range cut off, times", cut(found, peer)))
        else:
            rows.append(Row(f"{name}: calibrate and convert", found.seconds, unit="s"))
            rows += size(name, found, variables)
            rows += agreement(name, found, graph, variables, judged[0])
    return rows


def cut(made: Made, peer: Made) -> float:
    """The greatest ratio, over all sites' data, of the peer's range to this one."""
    return max(
        float((peer.scales[name]["data"].scale / state["data"].scale).max())
        for name, state in made.scales.items()
    )


def size(name: str, made: Made, variables: PyTree) -> list[Row]:
    """What the packed arrays take, beside the float model's: of all, and of what is quantized."""
    before, after = stored_bytes(variables), stored_bytes(store(made.quantized))
    rest = stored_bytes(made.quantized.params)
    return [
        Row(f"{name}: bytes", after, before, unit="bytes"),
        Row(f"{name}: bytes of matrices", after - rest, before - rest, unit="bytes"),
    ]


def agreement(
    name: str, made: Made, graph: Graph, variables: PyTree, batch: tuple[np.ndarray, np.ndarray]
) -> list[Row]:
    """How far integers are from the simulation in floats.

    Site by site, on the same operands; and from end to end, where each rounds what it computed: a
    number that is rounded the other way changes all after it. The peer of that is the simulation
    beside itself, its token embeddings larger by some units in the last place.
    """

    def both(contract: Contraction, operands: Sequence[Any], state: Any) -> tuple[Any, jax.Array]:
        assigned, (scales, quantized) = made.sites[contract.site.name], state
        simulated = simulate_site(contract, assigned, operands, scales)
        difference = run_site(contract, assigned, list(operands), quantized) - simulated
        return simulated, jnp.abs(difference).max() / jnp.abs(simulated).max()

    states = {site: (made.scales[site], state) for site, state in made.quantized.sites.items()}
    simulated, differences = jax.jit(rewrite(graph, both))(variables, states, *batch)
    moved = paths.map_with_path(
        lambda path, leaf: leaf * np.float32(1 + 3e-7) if path.endswith("/token") else leaf,
        variables,
    )
    integers = embed(execute(graph, made.sites), [batch], made.quantized)
    beside = embed(simulate(graph, made.sites), [batch], moved, made.scales)
    simulated = np.asarray(simulated)
    return [
        Row(
            f"{name}: greatest difference of a site in integers",
            max(map(float, differences.values())),
            goal="<= 1e-5",
        ),
        Row(
            f"{name}: least cosine of integers to simulation",
            float(cosines(integers, simulated).min()),
            float(cosines(beside, simulated).min()),
        ),
    ]


def sentences() -> tuple[Batches, Batches]:
    """The batches to judge and to calibrate by: ids and mask of each."""
    texts, _ = movie_reviews.read("rotten_tomatoes")
    ids, mask = minilm.tokenize(texts[: JUDGED + CALIBRATION], LENGTH)

    def batches(begin: int, count: int, size: int) -> Batches:
        starts = range(begin, begin + count, size)
        return [(ids[i : i + size], mask[i : i + size]) for i in starts]

    return batches(0, JUDGED, BATCH), batches(JUDGED, CALIBRATION, CALIBRATION_BATCH)


def main() -> None:
    """Measures every way and records the rows."""
    model = SentenceEmbedding(bert_config("minilm_l6"))
    record("sentences", measure(WAYS, model, minilm.load(), *sentences()))


if __name__ == "__main__":
    main()
