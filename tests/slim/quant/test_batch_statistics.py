import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from slim.graph import groups, make_plan, replay, shrink, trace
from slim.quant import Activations, Policy, Rule, Weights, assign, calibrate, reestimate, simulate

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(1, 2, size=(6, 5, 5, 3)).astype(np.float32),) for _ in range(4)]


class Net(nn.Module):
    """Two convolutions, each normalized; the statistics of the second are far from 0 and 1."""

    momentum: float

    @nn.compact
    def __call__(self, x, train):
        def norm(name):
            return nn.BatchNorm(not train, momentum=self.momentum, name=name)

        x = nn.relu(norm("norm1")(nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)))
        x = norm("norm2")(100 * nn.Conv(5, (1, 1), name="conv2")(x) + 30)
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def network(momentum):
    module = Net(momentum)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), BATCHES[0][0], train=False))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda like: rng.uniform(-1, 2, like.shape).astype(np.float32), shapes)
    return variables, lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])


def in_numpy(params, images):
    """The statistics of one batch, in double precision."""
    params = jax.tree.map(np.float64, params)
    statistics = {}

    def norm(name, x):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        statistics[name] = {"mean": mean, "var": var}
        normalized = (x - mean) / np.sqrt(var + 1e-5)
        return normalized * params[name]["scale"] + params[name]["bias"]

    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    x = norm("norm1", np.einsum("nhwcij,ijco->nhwo", patches, params["conv1"]["kernel"]))
    x = np.maximum(x, 0) @ params["conv2"]["kernel"][0, 0] + params["conv2"]["bias"]
    norm("norm2", 100 * x + 30)
    return statistics


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.999, 1 - 1 / 128])
def test_the_mean_of_the_batches_whatever_the_momentum(momentum):
    variables, train_fn = network(momentum)
    found = reestimate(train_fn, variables, BATCHES)
    every = [in_numpy(variables["params"], *batch) for batch in BATCHES]
    expected = jax.tree.map(lambda *each: np.mean(each, axis=0), *every)
    chex.assert_trees_all_close(
        jax.tree.map(np.float64, found["batch_stats"]), expected, rtol=2e-5, atol=1e-5
    )
    assert found["params"] is variables["params"]
    assert max(expected["norm2"]["var"]) > 1e4


def test_traced_once_for_all_batches_of_an_iterator():
    variables, train_fn = network(0.9)
    calls = []

    def counted(*args):
        calls.append(args)
        return train_fn(*args)

    found = [reestimate(counted, variables, iter(BATCHES[:count])) for count in (1, 4)]
    assert len(calls) <= 4  # for the shapes and for the program, in each
    first, every = (each["batch_stats"]["norm1"]["mean"] for each in found)
    assert not np.allclose(first, every)


def test_an_average_written_as_a_step_towards_the_batch():
    def train_fn(variables, x):
        old = variables["stats"]["mean"]
        return x, {"stats": {"mean": old - 0.02 * (old - x.mean((0, 1, 2)))}}

    variables = {"stats": {"mean": np.ones(3, np.float32)}}
    found = reestimate(train_fn, variables, BATCHES)
    expected = np.mean([x.mean((0, 1, 2), np.float64) for (x,) in BATCHES], axis=0)
    np.testing.assert_allclose(found["stats"]["mean"], expected, rtol=1e-5)


def test_of_a_quantized_network():
    variables, train_fn = network(0.9)
    graph = trace(train_fn, variables, *BATCHES[0])
    sites = assign(graph, Policy((Rule("*", Weights("int4"), Activations()),), edges=None))
    scales = calibrate(graph, sites, variables, BATCHES[:1])
    simulated = simulate(graph, sites)
    found = reestimate(lambda v, x: simulated(v, scales, x), variables, BATCHES)

    # By another way: running averages from 0 in a network of momentum 0 are the batch's own.
    last = network(0.0)[1]
    last = simulate(trace(last, variables, *BATCHES[0]), sites)
    each = [jax.jit(last)(variables, scales, *batch)[1]["batch_stats"] for batch in BATCHES]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    chex.assert_trees_all_close(found["batch_stats"], expected, rtol=1e-4, atol=1e-4)
    of_float = reestimate(train_fn, variables, BATCHES)["batch_stats"]["norm2"]["var"]
    assert np.abs(expected["norm2"]["var"] / of_float - 1).max() > 0.01


def test_of_a_cut_network():
    variables, train_fn = network(0.9)
    graph = trace(train_fn, variables, *BATCHES[0])
    plan = make_plan(graph, {group.name: (0, 2) for group in groups(graph)})
    small = shrink(plan, variables)
    found = reestimate(replay(graph, plan), small, BATCHES)["batch_stats"]
    assert found["norm1"]["mean"].shape == (2,)
    every = [in_numpy(small["params"], *batch) for batch in BATCHES]
    expected = jax.tree.map(lambda *each: np.mean(each, axis=0), *every)
    chex.assert_trees_all_close(jax.tree.map(np.float64, found), expected, rtol=2e-5, atol=1e-5)


def test_refusals():
    variables, train_fn = network(0.9)
    with pytest.raises(ValueError, match="batches: none were given"):
        reestimate(train_fn, variables, [])
    with pytest.raises(ValueError, match="train_fn changes no collection"):
        reestimate(lambda v, x: (train_fn(v, x)[0], {}), variables, BATCHES)

    def frozen(v, x):
        return x, {"batch_stats": v["batch_stats"]}

    with pytest.raises(ValueError, match=r"batch_stats/norm1/mean' is not .* from 1 to 1; leave"):
        reestimate(frozen, variables, BATCHES)

    def uneven(v, x):
        return x, {"state": {"sum": v["state"]["sum"] * jnp.array([0.5, 0.25])}}

    with pytest.raises(ValueError, match=r"'state/sum' is not .* from 0.25 to 0.5"):
        reestimate(uneven, {"state": {"sum": jnp.ones(2)}}, BATCHES)

    def counting(v, x):
        return x, {"state": {"count": v["state"]["count"] + 1}}

    with pytest.raises(ValueError, match=r"'state/count' is not .* of type int32"):
        reestimate(counting, {"state": {"count": jnp.array(0)}}, BATCHES)
