import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from slim.graph import rewrite, sites, trace

W = jax.random.normal(jax.random.key(0), (3, 4, 4))
X = jax.random.normal(jax.random.key(1), (2, 4))


def scanned(params, x):
    def layer(x, w):
        return jax.checkpoint(lambda x, w: jnp.tanh(x @ w.T))(x, w), x.sum()

    x, sums = jax.lax.scan(layer, x, params["w"])
    return x, sums


def nested(params, x):
    def outer(x, _):
        return scanned(params, x)

    return jax.lax.scan(outer, x, None, length=2)


def branched(params, x):
    w = params["w"]
    return jax.lax.cond(x.sum() > 0, lambda: x @ w[0], lambda: (x @ w[1]) @ w[2])


def looped(params, x):
    w = params["w"]

    def once(carry):
        i, x = carry
        return i + 1, jnp.tanh(x @ w[0])

    return jax.lax.while_loop(lambda carry: (carry[1] @ w[1]).sum() + carry[0] < 5, once, (0, x))


def custom(params, x):
    @jax.custom_jvp
    def fn(x):
        return jax.jit(lambda x: jnp.sin(x @ params["w"][0]))(x)

    fn.defjvp(lambda primals, tangents: (fn(*primals), jnp.zeros((2, 4))))
    return fn(x), jax.nn.relu(x @ params["w"][1])


def sharded(params, x):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    return jax.shard_map(
        lambda x: x @ params["w"][0], mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"data"}
    )(x)


PROGRAMS = [scanned, nested, branched, looped, custom, sharded]
every_program = pytest.mark.parametrize("fn", PROGRAMS)


def as_it_is(contract, operands, state):
    return contract(*operands), state


def count(contract, operands, state):
    return contract(*operands), state + 1


def zeros(graph, shape=()):
    return {site.name: jnp.zeros((*site.loops, *shape)) for site in sites(graph)}


@every_program
def test_a_hook_that_changes_nothing_changes_nothing(fn):
    params = {"w": W}
    graph = trace(fn, params, X)
    states = zeros(graph)
    outputs, after = jax.jit(rewrite(graph, as_it_is))(params, states, X)
    chex.assert_trees_all_close(outputs, fn(params, X), rtol=1e-6)
    chex.assert_trees_all_equal(after, states)
    # At another batch size, and without a chosen site.
    more = jnp.concatenate([X, X])
    outputs, _ = rewrite(graph, as_it_is)(params, {}, more)
    chex.assert_trees_all_close(outputs, fn(params, more), rtol=1e-6)


@pytest.mark.parametrize("fn", [scanned, nested, branched])
def test_gradients_pass(fn):
    params = {"w": W}
    graph = trace(fn, params, X)

    def loss(outputs):
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(outputs))

    rewritten = rewrite(graph, as_it_is)
    found = jax.grad(lambda p: loss(rewritten(p, zeros(graph), X)[0]))(params)
    chex.assert_trees_all_close(found, jax.grad(lambda p: loss(fn(p, X)))(params), rtol=1e-5)


def test_every_round_of_a_scan_has_its_own_state():
    params = {"w": W}
    graph = trace(nested, params, X)
    (site,) = sites(graph)
    assert site.loops == (2, 3)

    def largest(contract, operands, state):
        return contract(*operands), jnp.maximum(state, jnp.abs(operands[0]).max())

    _, states = rewrite(graph, largest)(params, zeros(graph), X)
    x, expected = X, []
    for _ in range(2):
        for w in W:
            expected.append(jnp.abs(x).max())
            x = jnp.tanh(x @ w.T)
    chex.assert_trees_all_close(states, {"w": jnp.stack(expected).reshape(2, 3)}, rtol=1e-6)


def test_only_the_branch_and_the_rounds_that_run():
    params = {"w": W}
    graph = trace(branched, params, X)
    positive = jnp.abs(X)
    _, states = rewrite(graph, count)(params, zeros(graph), positive)
    assert sorted(map(float, states.values())) == [0, 0, 1]
    _, states = rewrite(graph, count)(params, zeros(graph), -positive)
    assert sorted(map(float, states.values())) == [0, 1, 1]

    graph = trace(looped, params, X)
    (rounds, _), states = rewrite(graph, count)(params, zeros(graph), X)
    assert float(rounds) in map(float, states.values())


def test_a_parameter_that_only_a_hook_would_use_may_be_missing():
    kernel = W[0]

    def fn(params, x):
        stack = params["stack"]
        x, _ = jax.lax.scan(lambda x, w: (x @ w.astype(x.dtype), None), x, stack)
        return x @ params["last"].T + params["bias"]

    params = {"stack": W, "last": kernel, "bias": jnp.ones(4)}
    graph = trace(fn, params, X)

    def stored(contract, operands, state):
        assert operands[1] is None
        return contract(operands[0], state), state

    states = {"stack": W, "last": kernel.T}
    outputs, _ = jax.jit(rewrite(graph, stored))({"bias": params["bias"]}, states, X)
    chex.assert_trees_all_close(outputs, fn(params, X), rtol=1e-5)
    with pytest.raises(ValueError, match=r"add at .*test_rewrite.py.*is not given"):
        rewrite(graph, stored)({}, states, X)


def test_refusals():
    params = {"w": W}
    graph = trace(scanned, params, X)
    with pytest.raises(ValueError, match="no site is named 'v'; nearest: w"):
        rewrite(graph, as_it_is)(params, {"v": 0}, X)
    graph = trace(sharded, params, X)
    with pytest.raises(ValueError, match="changes inside a shard_map"):
        rewrite(graph, count)(params, zeros(graph), X)
