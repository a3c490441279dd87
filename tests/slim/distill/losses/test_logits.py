import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.distill import LOSSES, TopK
from slim.distill import top_k as eager_top_k
from slim.distill.losses.decoupled import decoupled_terms
from tests.slim.distill.losses import references

soft_targets = jax.jit(LOSSES["soft_targets"].value)
soft_targets_top_k = jax.jit(LOSSES["soft_targets_top_k"].value)
decoupled = jax.jit(LOSSES["decoupled"].value)
top_k = jax.jit(eager_top_k, static_argnames="k")


def with_gradient(name):
    return jax.jit(jax.value_and_grad(LOSSES[name].value))


def logits(*shape, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, *shape), scale=scale).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets(temperature):
    z, v = logits(6, 5, 10)
    expected = references.soft_targets(z, v, temperature)
    np.testing.assert_allclose(soft_targets(z, v, temperature=temperature), expected, rtol=1e-5)


def test_a_mask_of_tokens():
    z, v = logits(4, 5, 10)
    mask = np.array([5, 3, 0, 1])[:, None] > np.arange(5)
    expected = references.soft_targets(z[mask], v[mask])
    np.testing.assert_allclose(soft_targets(z, v, mask=mask), expected, rtol=1e-5)
    kept = top_k(v, 4)
    expected = references.soft_targets_top_k(z[mask], v[mask], 4)
    np.testing.assert_allclose(soft_targets_top_k(z, kept, mask=mask), expected, rtol=1e-5)
    labels = np.broadcast_to(np.arange(5, dtype=np.int32), (4, 5))
    expected = references.decoupled(z[mask], v[mask], labels[mask])
    np.testing.assert_allclose(decoupled(z, v, labels=labels, mask=mask), expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_high_temperatures_match_logits(classes):
    """Hinton et al. 2015, section 2.1: 1/(2N) ||z - v||^2 if both are of mean 0."""
    z, v = logits(4, classes)
    z, v = (x - x.mean(axis=-1, keepdims=True) for x in (z, v))
    loss, gradient = with_gradient("soft_targets")(z, v, temperature=1e3)
    np.testing.assert_allclose(loss, np.square(z - v).sum(-1).mean() / (2 * classes), rtol=2e-2)
    np.testing.assert_allclose(gradient, (z - v) / classes / 4, atol=2e-2 / classes)


def test_rounding_does_not_grow_with_the_temperature():
    z, v = logits(4, 1000)
    expected = references.soft_targets(z, v, 100.0)
    np.testing.assert_allclose(soft_targets(z, v, temperature=100.0), expected, rtol=1e-3)
    assert soft_targets(v, v, temperature=1e4) == 0


def test_classes_ruled_out_by_both():
    z, v = logits(4, 10)
    z[:, 3] = v[:, 3] = -np.inf
    loss, gradient = with_gradient("soft_targets")(z, v)
    others = np.delete(np.arange(10), 3)
    np.testing.assert_allclose(loss, references.soft_targets(z[:, others], v[:, others]), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_certain_predictions_that_disagree():
    z, v = np.float32([[200.0, -200.0]]), np.float32([[-200.0, 200.0]])
    loss, gradient = with_gradient("soft_targets")(z, v)
    np.testing.assert_allclose(loss, 400, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 4, 9, 10])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_top_k(k, temperature):
    z, v = logits(6, 10)
    result = soft_targets_top_k(z, top_k(v, k, temperature), temperature=temperature)
    expected = references.soft_targets_top_k(z, v, k, temperature)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_more_of_the_teacher_is_more_of_the_loss_up_to_the_full_one():
    z, v = logits(6, 10)
    losses = [float(soft_targets_top_k(z, top_k(v, k))) for k in (1, 5, 10)]
    assert losses == sorted(losses)
    np.testing.assert_allclose(losses[-1], soft_targets(z, v), rtol=1e-6)


def test_top_k_leaves_the_proportions_within_the_rest():
    z, v = logits(1, 10)
    kept = top_k(v, 3)
    gradient = with_gradient("soft_targets_top_k")(z, kept)[1][0]
    rest = np.delete(np.arange(10), kept.indices[0])
    q = references.softmax(z[0])
    expected = (q[rest].sum() - np.exp(kept.rest[0])) * q[rest] / q[rest].sum()
    np.testing.assert_allclose(gradient[rest], expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_top_k_stored_in_fewer_bits(dtype):
    z, v = logits(6, 10)
    full = top_k(v, 4)
    stored = TopK(full.values.astype(dtype), full.indices, full.rest.astype(dtype))
    expected = soft_targets_top_k(z, full)
    np.testing.assert_allclose(soft_targets_top_k(z, stored), expected, rtol=2e-2)
    assert 0 <= soft_targets_top_k(v, stored) < 1e-3


@pytest.mark.parametrize("k", [0, 11])
def test_k_beyond_the_vocabulary_is_refused(k):
    with pytest.raises(ValueError, match=rf"k = {k}: must be in \[1, 10\], logits \(6, 10\)"):
        eager_top_k(logits(6, 10)[0], k)


def test_a_top_k_of_another_vocabulary_is_refused():
    z, v = logits(6, 10)
    with pytest.raises(ValueError, match=r"student \(6, 4\).*k <= classes"):
        soft_targets_top_k(z[:, :4], top_k(v, 5))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_decoupled(classes, temperature):
    z, v = logits(6, classes)
    labels = np.arange(6, dtype=np.int32) % classes
    given = {"labels": labels, "temperature": temperature, "alpha": 0.5, "beta": 3.0}
    expected = references.decoupled(z, v, **given)
    np.testing.assert_allclose(decoupled(z, v, **given), expected, rtol=1e-5)


def test_soft_targets_are_the_decoupled_terms():
    """Zhao et al. 2022: KD = TCKD + (1 - p_t) NCKD."""
    z, v = logits(6, 10)
    labels = np.arange(6, dtype=np.int32)
    target, others = jax.jit(decoupled_terms)(z, v, labels)
    p_t = references.softmax(v)[np.arange(6), labels]
    np.testing.assert_allclose(np.mean(target + (1 - p_t) * others), soft_targets(z, v), rtol=1e-5)


def test_decoupled_with_a_teacher_that_is_sure():
    z, v = logits(6, 10)
    labels = np.arange(6, dtype=np.int32)
    v[np.arange(6), labels] += 1000
    loss, gradient = with_gradient("decoupled")(z, v, labels=labels)
    others = ~np.eye(6, 10, dtype=bool)
    nckd = references.soft_targets(z[others].reshape(6, 9), v[others].reshape(6, 9), 4.0)
    tckd = -16 * np.mean(np.log(references.softmax(z / 4)[~others]))
    np.testing.assert_allclose(loss, tckd + 8 * nckd, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_labels_that_do_not_fit_are_refused():
    z, v = logits(6, 10)
    with pytest.raises(ValueError, match=r"labels \(5,\), student \(6, 10\)"):
        decoupled(z, v, labels=np.arange(5))
