import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe import (
    Routing,
    dropped_share,
    load,
    load_entropy,
    load_statistics,
    max_violation,
)


def test_load_counts_every_assignment():
    experts = np.random.default_rng(0).integers(0, 7, (4, 9, 3))
    found = load(Routing(jnp.asarray(experts), None, None), 8)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, np.bincount(experts.ravel(), minlength=8))


# Two layers at once: in balance, and all to one.
EXTREMES = jnp.array([[3, 3, 3, 3], [0, 12, 0, 0]])


def test_extremes():
    np.testing.assert_allclose(max_violation(EXTREMES), [0, 3], atol=1e-6)
    np.testing.assert_allclose(load_entropy(EXTREMES), [1, 0], atol=1e-6)
    np.testing.assert_allclose(dropped_share(jnp.array([0, 9]), EXTREMES), [0, 0.75])


def test_between():
    counts = np.array([5, 1, 2, 0])
    shares = counts[:3] / 8
    entropy = -(shares * np.log(shares)).sum() / np.log(4)
    found = load_statistics(jnp.asarray(counts), jnp.array(2))
    expected = {"max_violation": 1.5, "load_entropy": entropy, "dropped_share": 0.25}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


@pytest.mark.parametrize("experts", [1, 4])
def test_nothing_routed_is_finite(experts):
    found = load_statistics(jnp.zeros(experts, jnp.int32), jnp.array(0))
    expected = {"max_violation": -1, "load_entropy": 0, "dropped_share": 0}
    assert {name: float(value) for name, value in found.items()} == expected
