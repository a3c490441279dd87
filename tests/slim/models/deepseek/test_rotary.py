"""Rotation: what it must keep, and YaRN's published constants."""

import jax.numpy as jnp
import numpy as np
import pytest

from slim.models.deepseek import deepseek_config
from slim.models.deepseek.rotary import amplitude, frequencies, rotate, softmax_scale

V3 = deepseek_config("v3")


def test_products_depend_on_distance_alone():
    tiny = deepseek_config("tiny")
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 16)).astype(np.float32)

    def product(m, n):
        return (rotate(q[None], jnp.array([m]), tiny) * rotate(k[None], jnp.array([n]), tiny)).sum()

    np.testing.assert_allclose(product(3, 1), product(90, 88), rtol=1e-4)
    np.testing.assert_allclose(product(7, 7), (q * k).sum(), rtol=1e-5)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_neighbours_are_a_pair_and_heads_turn_alike():
    """As in the published weights; the other convention pairs the halves."""
    tiny = deepseek_config("tiny")
    x = np.zeros((1, 2, 3, 16), np.float32)
    x[..., 2] = 1
    angle = np.float32(10_000.0 ** (-2 / 16))
    expected = np.zeros(16, np.float32)
    expected[2:4] = np.cos(angle), np.sin(angle)
    out = rotate(x, jnp.array([0, 1]), tiny)
    np.testing.assert_allclose(out[0, 0], x[0, 0], atol=1e-7)
    np.testing.assert_allclose(out[0, 1], np.tile(expected, (3, 1)), atol=1e-6)


def test_v3s_yarn():
    """Pairs 0 to 10 turn 32 times and more over 4096 places, pairs from 23 less than once."""
    found = frequencies(V3)
    plain = 10_000.0 ** (-np.arange(32) / 32)
    assert plain[10] * 4096 > 32 * 2 * np.pi > plain[11] * 4096
    assert plain[22] * 4096 > 2 * np.pi > plain[23] * 4096
    np.testing.assert_allclose(found[:11], plain[:11], rtol=1e-6)
    np.testing.assert_allclose(found[23:], plain[23:] / 40, rtol=1e-6)
    slowed = np.arange(1, 13) / 13
    np.testing.assert_allclose(found[11:23], plain[11:23] * (1 - slowed + slowed / 40), rtol=1e-6)
    assert amplitude(V3) == 1.0
    assert softmax_scale(V3) == pytest.approx(192**-0.5 * (0.1 * np.log(40) + 1) ** 2)
