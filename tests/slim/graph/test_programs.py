"""Each program has the groups that it should have, and its small version is the masked one."""

import pytest

from tests.slim.graph.exactness import assert_exact, random_like
from tests.slim.graph.programs import PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_small_is_masked(name):
    make, sizes, gradients, _ = PROGRAMS[name]
    fn, params, x = make()
    found = assert_exact(fn, random_like(params), random_like(x, seed=1), gradients=gradients)
    assert sorted(group.size for group in found.values()) == sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in PROGRAMS.items() if entry[3]])
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_small_gradients_are_masked_ones(name, ratio):
    fn, params, x = PROGRAMS[name][0]()
    assert_exact(fn, random_like(params), random_like(x, seed=1), ratio=ratio, seed=2)
