from functools import partial

import jax
import numpy as np
import pytest

from slim.prune.distributions import erk, global_, uniform
from slim.prune.distributions.erk import erk_densities

RESNET_LIKE = {
    "stem": (3, 3, 3, 16),
    "a": (3, 3, 16, 16),
    "b": (3, 3, 16, 32),
    "c": (3, 3, 32, 64),
    "head": (64, 10),
}


def scores():
    rng = np.random.default_rng(0)
    return {p: rng.uniform(size=s).astype(np.float32) for p, s in RESNET_LIKE.items()}


def jitted(distribution):
    return jax.jit(lambda scores, keep: distribution(scores, RESNET_LIKE, keep))


jitted_densities = jax.jit(partial(erk_densities, RESNET_LIKE))


def erk_by_the_paper(shapes, keep):
    """Evci et al. 2020, section 3 and their published loop: make dense what exceeds 1, repeat."""
    sizes = {p: np.prod(s) for p, s in shapes.items()}
    dense = set()
    while True:
        budget = keep * sum(sizes.values()) - sum(sizes[p] for p in dense)
        raw = {p: sum(s) / np.prod(s) for p, s in shapes.items() if p not in dense}
        eps = budget / sum(raw[p] * sizes[p] for p in raw)
        over = {p for p in raw if raw[p] * eps > 1}
        if not over:
            return {p: 1.0 if p in dense else eps * raw[p] for p in shapes}
        # One at a time, the largest first, as the paper's code does.
        dense.add(max(over, key=raw.__getitem__))


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.3, 0.5, 0.8, 0.95])
def test_erk_densities_are_the_papers(keep):
    densities = jitted_densities(keep)
    for path, expected in erk_by_the_paper(RESNET_LIKE, keep).items():
        np.testing.assert_allclose(densities[path], expected, rtol=2e-5)


def test_erk_saturates_small_tensors_first():
    densities = jitted_densities(0.5)
    assert densities["stem"] == 1
    assert densities["head"] == 1
    assert 0 < densities["c"] < densities["b"] < 1


def test_erk_keeps_each_tensors_density():
    given = scores()
    masks = jitted(erk)(given, 0.2)
    densities = jitted_densities(0.2)
    for path, mask in masks.items():
        assert int(mask.sum()) == round(float(densities[path]) * mask.size)


def test_uniform_keeps_the_highest_of_each():
    given = scores()
    for path, mask in jitted(uniform)(given, 0.3).items():
        assert int(mask.sum()) == round(0.3 * mask.size)
        assert given[path][np.asarray(mask)].min() > given[path][~np.asarray(mask)].max()


def test_global_ranks_all_together_and_may_empty_a_tensor():
    given = scores() | {"a": np.zeros(RESNET_LIKE["a"], np.float32)}
    masks = jitted(global_)(given, 0.3)
    assert sum(int(m.sum()) for m in masks.values()) == round(
        0.3 * sum(m.size for m in masks.values())
    )
    assert not masks["a"].any()
    kept = min(given[p][np.asarray(m)].min() for p, m in masks.items() if m.any())
    removed = max(given[p][~np.asarray(m)].max() for p, m in masks.items() if not m.all())
    assert kept > removed
