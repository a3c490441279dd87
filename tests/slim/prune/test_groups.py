import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import groups, make_plan, mask, trace
from slim.prune import NORMALISATIONS, SCORES, Evidence, score_groups

HEADS, WIDTH, FEATURES = 4, 3, 6


def init_params():
    keys = iter(jax.random.split(jax.random.key(0), 8))
    return {
        "qkv": {"kernel": jax.random.normal(next(keys), (FEATURES, 3 * HEADS * WIDTH))},
        "out": {"kernel": jax.random.normal(next(keys), (HEADS * WIDTH, FEATURES))},
        "up": {"kernel": jax.random.normal(next(keys), (FEATURES, 8)), "bias": jnp.ones(8)},
        "norm": {"scale": jax.random.uniform(next(keys), (8,))},
        "down": {"kernel": jax.random.normal(next(keys), (8, 5))},
    }


def model(params, x):
    """Attention with one fused kernel, then a perceptron; `x` (batch, length, features)."""
    batch, length, _ = x.shape
    qkv = (x @ params["qkv"]["kernel"]).reshape(batch, length, 3, HEADS, WIDTH)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    weights = jax.nn.softmax(jnp.einsum("bqhw,bkhw->bhqk", query, key))
    mixed = jnp.einsum("bhqk,bkhw->bqhw", weights, value).reshape(batch, length, -1)
    y = (x + mixed @ params["out"]["kernel"]) @ params["up"]["kernel"] + params["up"]["bias"]
    return jax.nn.relu(y * params["norm"]["scale"]) @ params["down"]["kernel"]


INPUTS = jax.random.normal(jax.random.key(1), (2, 7, FEATURES))
GRAPH = trace(model, init_params(), INPUTS)
GROUPS = {group.name: group for group in groups(GRAPH)}


def evidence():
    params = init_params()
    grads = jax.grad(lambda p: jnp.square(model(p, INPUTS)).mean())(params)
    return Evidence(
        params=params,
        grads=grads,
        squared_grads=jax.tree.map(jnp.square, grads),
        input_norms={"down": {"kernel": jnp.arange(1.0, 9.0)[:, None]}},
        zero_fractions={"down": {"kernel": jnp.linspace(0, 1, 8)[:, None]}},
        key=jax.random.key(2),
    )


def heads():
    """The group of whole heads: the one that runs along qkv three times a head's width."""
    return next(g for g in GROUPS.values() if g.size == HEADS)


def test_a_units_score_sums_over_every_tensor_it_has_weights_in():
    params = init_params()
    up, down = params["up"]["kernel"], params["down"]["kernel"]
    scores = score_groups(SCORES["l2"], evidence(), [GROUPS["up/kernel:1"]])["up/kernel:1"]
    squares = jnp.square(up).sum(0) + jnp.square(down).sum(1)  # the bias is no kernel
    np.testing.assert_allclose(scores, jnp.sqrt(squares), rtol=1e-6)


def test_heads_are_found_inside_a_fused_kernel():
    params = init_params()
    qkv = params["qkv"]["kernel"].reshape(FEATURES, 3, HEADS, WIDTH)
    out = params["out"]["kernel"].reshape(HEADS, WIDTH, FEATURES)
    expected = jnp.abs(qkv).sum((0, 1, 3)) + jnp.abs(out).sum((1, 2))
    scores = score_groups(SCORES["l1"], evidence(), [heads()])[heads().name]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_taylor_foretells_the_loss_of_masking_a_unit():
    """To first order in the weights: those of the unit are made small first."""
    params = init_params()
    params["up"]["kernel"] = params["up"]["kernel"] * 1e-3
    params["up"]["bias"] = params["up"]["bias"] * 0
    target = jax.random.normal(jax.random.key(3), (2, 7, 5))

    def loss(params):
        return jnp.mean(model(params, INPUTS) * target)

    # What a unit's incoming weights say; its outgoing ones say the same once more.
    group = GROUPS["up/kernel:1"]
    scores = score_groups(
        SCORES["taylor"], Evidence(params, grads=jax.grad(loss)(params)), [group]
    )[group.name]
    for unit in range(8):
        plan = make_plan(GRAPH, {group.name: [i for i in range(8) if i != unit]})
        change = loss(mask(plan, params)) - loss(params)
        np.testing.assert_allclose(scores[unit] / 2, abs(change), rtol=1e-3)


def rated_by(name):
    """Scores of activations and scales rate only the groups that they have evidence about."""
    if name in ("wanda", "apoz", "norm_scale"):
        return [GROUPS["up/kernel:1"]]
    return list(GROUPS.values())


@pytest.mark.parametrize("name", SCORES)
def test_every_score_rates_groups(name):
    chosen = rated_by(name)

    def rate(given):
        return score_groups(SCORES[name], given, chosen)

    jitted = jax.jit(rate)
    scores = jitted(evidence())
    for group in chosen:
        chex.assert_shape(scores[group.name], (group.size,))
        chex.assert_type(scores[group.name], jnp.float32)
        assert (scores[group.name] >= 0).all()
        assert scores[group.name].max() > scores[group.name].min()
    chex.assert_trees_all_equal(jitted(evidence()), scores)
    assert jitted._cache_size() == 1
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(rate, evidence()), scores)


def test_scores_outside_jit_are_those_inside():
    def rate(given):
        return score_groups(SCORES["layer_sensitive"], given, GROUPS.values())

    chex.assert_trees_all_close(rate(evidence()), jax.jit(rate)(evidence()), rtol=1e-5)


def test_apoz_rates_a_unit_by_the_kernel_that_takes_it_in():
    scores = score_groups(SCORES["apoz"], evidence(), [GROUPS["up/kernel:1"]])
    np.testing.assert_allclose(scores["up/kernel:1"], 1 - jnp.linspace(0, 1, 8), atol=1e-6)


def test_a_group_without_evidence_is_named():
    with pytest.raises(ValueError, match=r"'apoz' finds nothing to rate in group .*zero_fractions"):
        score_groups(SCORES["apoz"], evidence(), [heads()])
    bare = evidence()._replace(grads=None)
    with pytest.raises(ValueError, match=r"'taylor' finds nothing to rate.*grads"):
        score_groups(SCORES["taylor"], bare, [heads()])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_nan_is_refused_by_name(normalisation):
    bad = evidence()
    bad.params["up"]["kernel"] = bad.params["up"]["kernel"].at[0, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="'l2' of group 'up/kernel:1' is NaN at 1 of 8"):
        score_groups(
            SCORES["l2"],
            bad,
            [GROUPS["up/kernel:1"]],
            normalisation=NORMALISATIONS[normalisation],
        )
