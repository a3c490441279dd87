"""Random networks, cut at random: the small function is the masked one, gradients too."""

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.slim.graph.exactness import assert_exact
from tests.slim.graph.random_programs import OPERATIONS, RECIPES, build

SETTINGS = dict(  # noqa: C408
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    database=None,
)


RATIOS = (0.3, 0.5, 0.8)


def check(recipe, seed, ratio):
    """In double precision, where rounding is far below 1e-9 of the result."""
    with jax.enable_x64(True):
        fn, params, x = build(recipe, seed)
        found = assert_exact(fn, params, x, seed=seed, ratio=ratio, tolerance=1e-9)
    jax.clear_caches()  # Hundreds of compiled programs would fill the memory.
    return found


@settings(max_examples=4, **SETTINGS)
@given(RECIPES, st.integers(0, 99), st.sampled_from(RATIOS))
def test_random_programs(recipe, seed, ratio):
    check(recipe, seed, ratio)


@pytest.mark.slow
@settings(max_examples=500, **SETTINGS)
@given(RECIPES, st.integers(0, 99), st.sampled_from(RATIOS))
def test_five_hundred_random_programs(recipe, seed, ratio):
    check(recipe, seed, ratio)


@pytest.mark.slow
@pytest.mark.parametrize(("i", "ratio"), list(enumerate(RATIOS)))
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_alone(name, i, ratio):
    """Between dense layers; most leave something to cut."""
    check([(name, i, i + 1, 0), ("dense", 1, 1, 0)], seed=i, ratio=ratio)
