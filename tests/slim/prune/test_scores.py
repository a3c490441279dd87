import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.prune import SCORES, Evidence, score_weights
from slim.prune.evidence import Leaf

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(6, 5)).astype(np.float32)
GRADS = RNG.normal(size=(6, 5)).astype(np.float32)
SQUARED = RNG.uniform(size=(6, 5)).astype(np.float32)
NORMS = RNG.uniform(1, 2, size=(6, 1)).astype(np.float32)


def weights(name, weight=WEIGHT, **measured):
    trees = {field: {"kernel": jnp.asarray(value)} for field, value in measured.items()}
    given = Evidence({"kernel": jnp.asarray(weight)}, **trees)
    return np.asarray(score_weights(SCORES[name], given, ["kernel"])["kernel"])


def units(name, weight=WEIGHT, path="kernel", **measured):
    score = SCORES[name]
    measured = {field: jnp.asarray(value) for field, value in measured.items()}
    return np.asarray(score.finish(*score.terms(Leaf(path, jnp.asarray(weight), measured))))


def lamp(weight):
    """Lee et al. 2021, equation 3."""
    squares = weight.ravel() ** 2
    return np.array([s / squares[squares >= s].sum() for s in squares]).reshape(weight.shape)


def test_scores_of_weights_by_their_formulas():
    np.testing.assert_allclose(weights("l1"), np.abs(WEIGHT))
    np.testing.assert_allclose(weights("l2"), np.abs(WEIGHT), rtol=1e-6)
    np.testing.assert_allclose(weights("lamp"), lamp(WEIGHT), rtol=1e-5)
    np.testing.assert_allclose(weights("gradient_norm", grads=GRADS), np.abs(GRADS), rtol=1e-6)
    saliency = np.abs(WEIGHT * GRADS)
    np.testing.assert_allclose(weights("taylor", grads=GRADS), saliency, rtol=1e-6)
    per_output = saliency / np.linalg.norm(WEIGHT, axis=0)
    np.testing.assert_allclose(weights("layer_sensitive", grads=GRADS), per_output, rtol=1e-6)
    obd = WEIGHT**2 * SQUARED / 2
    np.testing.assert_allclose(weights("fisher", squared_grads=SQUARED), obd, rtol=1e-6)
    np.testing.assert_allclose(
        weights("wanda", input_norms=NORMS), np.abs(WEIGHT) * NORMS, rtol=1e-6
    )


def test_scores_of_units_by_their_formulas():
    np.testing.assert_allclose(units("l1"), np.abs(WEIGHT).sum(1), rtol=1e-6)
    np.testing.assert_allclose(units("l2"), np.linalg.norm(WEIGHT, axis=1), rtol=1e-6)
    norms = np.linalg.norm(GRADS, axis=1)
    np.testing.assert_allclose(units("gradient_norm", grads=GRADS), norms, rtol=1e-6)
    signed = np.abs((WEIGHT * GRADS).sum(1))
    np.testing.assert_allclose(units("taylor", grads=GRADS), signed, rtol=1e-5)
    ratio = np.abs(WEIGHT * GRADS).sum(1) / np.linalg.norm(WEIGHT, axis=1)
    np.testing.assert_allclose(units("layer_sensitive", grads=GRADS), ratio, rtol=1e-6)
    distances = np.linalg.norm(WEIGHT[:, None] - WEIGHT[None], axis=-1).sum(1)
    np.testing.assert_allclose(units("fpgm"), distances, rtol=1e-5)
    np.testing.assert_allclose(
        units("apoz", zero_fractions=SQUARED), 1 - SQUARED.mean(1), rtol=1e-6
    )
    np.testing.assert_allclose(
        units("norm_scale", path="bn/scale"), np.abs(WEIGHT).sum(1), rtol=1e-6
    )


def test_lamp_of_ties_and_zeros():
    np.testing.assert_allclose(weights("lamp", np.zeros((2, 2))), 0)
    ranked = weights("lamp", np.array([[0.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(np.sort(ranked.ravel()), [0, 1 / 6, 1 / 5, 1], rtol=1e-6)


def test_fpgm_rates_copies_lowest():
    rows = WEIGHT.copy()
    rows[[1, 2]] = rows.mean(axis=0)
    assert set(np.argsort(units("fpgm", rows))[:2]) == {1, 2}


def test_taylor_is_the_first_order_change_of_the_loss():
    weight, direction = jnp.asarray(WEIGHT), jnp.asarray(GRADS)

    def loss(weight):
        return jnp.sin(weight * direction).sum()

    grads = jax.grad(loss)(weight * 1e-2)
    scores = units("taylor", weight * 1e-2, grads=grads)
    for i in range(6):
        change = loss((weight * 1e-2).at[i].set(0)) - loss(weight * 1e-2)
        np.testing.assert_allclose(scores[i], abs(change), rtol=1e-2)


def test_the_layer_sensitive_score_is_freed_of_the_saliencys_dependence_on_scale():
    scores = units("layer_sensitive", WEIGHT, grads=GRADS)
    np.testing.assert_allclose(units("layer_sensitive", WEIGHT * 4, grads=GRADS), scores, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, s in SCORES.items() if s.weights is None])
def test_scores_of_units_only_say_so(name):
    with pytest.raises(ValueError, match=f"'{name}' rates whole units"):
        weights(name)


def test_random_numbers_belong_to_the_path():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    given = Evidence(params, key=jax.random.key(0))
    both = score_weights(SCORES["random"], given, ["a", "b"])
    alone = score_weights(SCORES["random"], given, ["b"])
    np.testing.assert_array_equal(both["b"], alone["b"])
    assert (both["a"] != both["b"]).any()


def test_missing_and_unknown_are_named():
    with pytest.raises(ValueError, match=r"Evidence\.input_norms.*'kernel'"):
        weights("wanda")
    with pytest.raises(ValueError, match=r"pass jax\.random\.key"):
        weights("random")
    with pytest.raises(ValueError, match=r"no parameter 'kernl'.*nearest: kernel"):
        score_weights(SCORES["l1"], Evidence({"kernel": jnp.ones((2, 2))}), ["kernl"])
