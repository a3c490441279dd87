import numpy as np
import pytest

from slim.dynamic.packing import packs, routed


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("sizes", [(8,), (1, 2, 4), (2, 8), (3,)])
def test_packs_hold_every_row_once(count, sizes):
    chosen = np.isin(np.arange(8), np.random.default_rng(count).permutation(8)[:count])
    found = packs(chosen, sizes)
    assert {len(pack) for pack in found} <= set(sizes)
    rows = [row for pack in found for row in pack if row < 8]
    assert rows == np.flatnonzero(chosen).tolist()
    assert all(len(pack) == max(sizes) for pack in found[:-1])


def test_each_example_gets_the_function_chosen_for_it():
    traced = []

    def of_degree(degree):
        def fn(params, x):
            traced.append((degree, len(x)))
            return params * x**degree

        return fn

    run = routed([of_degree(d) for d in (1, 2, 3)], sizes=(2, 3))
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    for seed in range(4):
        chosen = np.random.default_rng(seed).integers(0, 3, 7)
        expected = np.float32(1.5) * x ** (1 + chosen[:, None])
        np.testing.assert_allclose(run(np.float32(1.5), chosen, x), expected, rtol=1e-5)
    # Each function at each size once; shapes are asked of the first, for the whole batch.
    compiled = [each for each in traced if each[1] != 7]
    assert len(compiled) == len(set(compiled))
    assert {size for _, size in compiled} <= {2, 3}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: routed([], sizes=(1,)), "functions is empty"),
        (lambda: routed([np.add], sizes=()), r"sizes is \(\)"),
        (lambda: routed([np.add], sizes=(2, 0)), r"sizes is \(2, 0\)"),
        (lambda: routed([np.add], sizes=(1,))(1, np.array([0, 1]), 2), "from 0 to 1, must be"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()
