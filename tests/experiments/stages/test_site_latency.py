"""Every site timed alone, once for all that are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stages import site_latency
from experiments.stages.site_latency import FLOAT, site_seconds
from experiments.timing import Latency
from slim.graph import trace
from slim.quant import Activations, Option, Policy, Rule, Weights, assign, calibrate

WAYS = {"int8": (Weights(), Activations()), "w4": (Weights("int4", 2), None)}


def fn(p, x):
    x = jax.nn.relu(x @ p["first"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])[0]
    x = jnp.tanh(x @ p["same"])
    scores = (x @ x.T) @ jnp.broadcast_to(x @ p["float"], (len(x), 4))
    return jax.lax.ragged_dot(scores, p["experts"], jnp.array([len(x) // 2, len(x) // 2]))


SHAPES = {
    "first": (6, 4),
    "stack": (3, 4, 4),
    "same": (4, 4),
    "float": (4, 4),
    "experts": (2, 4, 4),
}


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=s).astype(np.float32) for name, s in SHAPES.items()}
    x = rng.normal(size=(2, 6)).astype(np.float32)
    graph = trace(fn, params, x)
    options = {}
    for name, specs in WAYS.items():
        rules = (Rule("float", None, None), Rule("*", *specs))
        sites = assign(graph, Policy(rules, edges=None))
        options[name] = Option(sites, calibrate(graph, sites, params, [(x,)]))
    return graph, params, options


def test_each_program_is_timed_once_at_the_batch(case, monkeypatch):
    shapes = []

    def timed(calls, *, rounds):
        assert rounds == 3
        shapes.extend(call().shape for call in calls.values())
        return {name: Latency((1e-6 * (k + 1),), 1) for k, name in enumerate(calls)}

    monkeypatch.setattr(site_latency, "in_turn", timed)
    found = site_seconds(*case, batch=8, rounds=3)
    assert set(found) == {"first", "stack", "same", "experts"}
    assert all(list(each) == [FLOAT, *WAYS] for each in found.values())
    # Of four sites, one is equal to a round of another.
    assert shapes == [(8, 4)] * 9
    for name, seconds in found["stack"].items():
        assert seconds == pytest.approx(3 * found["same"][name])
    distinct = {s for name in ("first", "same", "experts") for s in found[name].values()}
    assert len(distinct) == 9


def test_seconds_are_of_the_programs_that_execute_runs(case, monkeypatch):
    texts = []
    monkeypatch.setattr(
        site_latency,
        "in_turn",
        lambda calls, rounds: texts.extend(calls) or dict.fromkeys(calls, Latency((1.0,), 1)),
    )
    site_seconds(*case, batch=8, rounds=1)
    in_float, in_integers, weights_only = texts[:3]
    assert in_float.count("dot_general") == 1
    assert "xi8>" not in in_float
    assert "tensor<8x6xi8>, tensor<6x4xi8>) -> tensor<8x4xi32>" in in_integers
    assert "tensor<8x6xf32>, tensor<6x4xf32>) -> tensor<8x4xf32>" in weights_only


def test_the_clock_itself(case):
    graph, params, options = case
    found = site_seconds(graph, params, {"w4": options["w4"]}, batch=2, rounds=1)
    assert all(seconds > 0 for each in found.values() for seconds in each.values())
