import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe import gate_load, load
from slim.moe.compress import Mixture, choose_experts, prune_experts
from slim.moe.routing import sigmoid, softmax
from tests.slim.moe.compress import mixtures

ROUTERS = {
    "sigmoid": sigmoid(2),
    "softmax": softmax(2, normalize=True),
    "groups": sigmoid(2, groups=2, groups_kept=1),
    "best of groups": softmax(2, normalize=True, groups=4, groups_kept=2),
}
LOADS = jnp.array([[5, 0, 9, 3, 3, 3, 3, 8], [0, 0, 0, 0, 1, 1, 2, 2]])


def test_the_most_used_are_kept():
    kept = choose_experts(LOADS, 4)
    np.testing.assert_array_equal(kept, [[0, 2, 3, 7], [4, 5, 6, 7]])
    assert kept.dtype == jnp.int32
    np.testing.assert_array_equal(
        jax.jit(choose_experts, static_argnums=(1, 2))(LOADS, 4, 4), [[0, 2, 4, 7], [0, 2, 4, 6]]
    )


def make(router):
    """A bias that is none of a softmax: less probability would weigh more against it."""
    mixture, x = mixtures.make()
    if router.name == "softmax":
        mixture = mixture._replace(bias=jnp.zeros(mixtures.EXPERTS))
    return mixture, x


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_equals_the_mixture_whose_other_experts_are_closed(router):
    mixture, x = make(router)
    kept = choose_experts(LOADS[0], 4, router.groups)
    closed = mixture.bias.at[np.setdiff1d(np.arange(8), kept)].set(-jnp.inf)
    small = prune_experts(mixture, kept)
    chex.assert_tree_shape_prefix(small.experts, (4,))
    np.testing.assert_allclose(
        mixtures.output(router, small, x),
        mixtures.output(router, mixture._replace(bias=closed), x),
        atol=1e-6,
    )


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
def test_experts_that_nobody_used_are_not_missed(router):
    mixture, x = make(router)
    # Two of each half that no token wants.
    unwanted = jnp.zeros(8).at[jnp.array([0, 3, 5, 6])].set(-100.0)
    mixture = mixture._replace(bias=mixture.bias + unwanted)
    routing = mixtures.route(router, mixture, x)
    kept = choose_experts(load(routing, 8), 4, router.groups)
    np.testing.assert_array_equal(kept, [1, 2, 4, 7])
    np.testing.assert_array_equal(choose_experts(gate_load(routing, 8), 4, router.groups), kept)
    np.testing.assert_allclose(
        mixtures.output(router, prune_experts(mixture, kept), x),
        mixtures.output(router, mixture, x),
        atol=1e-6,
    )


def test_gates_of_a_plain_softmax_grow_by_the_probability_that_is_gone():
    mixture, x = mixtures.make()
    router, kept = softmax(1), jnp.array([0, 2, 4, 6])
    scores = mixtures.route(router, mixture, x).scores
    routing = mixtures.route(router, prune_experts(mixture, kept), x)
    np.testing.assert_allclose(
        routing.scores, scores[:, kept] / scores[:, kept].sum(-1, keepdims=True), rtol=1e-5
    )


def test_a_stack_of_layers_by_vmap():
    layers = [mixtures.make(seed)[0] for seed in (0, 1)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    kept = choose_experts(LOADS, 3)
    found = jax.vmap(prune_experts)(stack, kept)
    for i, layer in enumerate(layers):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, i=i: leaf[i], found), prune_experts(layer, kept[i])
        )


def test_without_a_bias():
    mixture, _ = mixtures.make()
    small = prune_experts(Mixture(mixture.kernel, None, mixture.experts), jnp.array([1, 2]))
    assert small.bias is None
    chex.assert_shape(small.kernel, (mixtures.WIDTH, 2))


@pytest.mark.parametrize(
    ("keep", "groups", "message"),
    [
        (0, 1, "keep is 0; allowed: 1 to the 8 experts"),
        (9, 1, "keep is 9; allowed: 1 to the 8 experts"),
        (3, 3, "groups is 3; it must divide the 8 experts and keep = 3"),
        (3, 2, "groups is 2; it must divide the 8 experts and keep = 3"),
    ],
)
def test_numbers_that_do_not_fit(keep, groups, message):
    with pytest.raises(ValueError, match=message):
        choose_experts(LOADS, keep, groups)
