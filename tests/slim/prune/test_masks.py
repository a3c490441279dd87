import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.prune import (
    SCORES,
    Evidence,
    apply_masks,
    choose_masks,
    count_kept,
    density,
    full_masks,
    prunable,
)

PARAMS = {
    "dense": {"kernel": jnp.arange(1.0, 13.0).reshape(4, 3), "bias": jnp.ones(3)},
    "heads": {"kernel": jnp.full((4, 2, 2), 20.0), "bias": jnp.ones((2, 2))},
    "norm": {"scale": jnp.ones((2, 4))},
    "table": {"embedding": jnp.ones((5, 4))},
    "steps": jnp.zeros((2, 2), jnp.int32),
}


def chosen(**kwargs):
    return [path for path, yes in prunable(PARAMS, **kwargs).items() if yes]


def test_kernels_are_prunable_by_default():
    assert chosen() == ["dense/kernel", "heads/kernel"]


def test_rules_decide_first():
    rules = [("heads/*", False), ("*/embedding", True)]
    assert chosen(rules=rules) == ["dense/kernel", "table/embedding"]


def test_shapes_are_enough():
    assert prunable(jax.eval_shape(lambda: PARAMS)) == prunable(PARAMS)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("dense/kernl", False)], "matches no parameter.*dense/kernel"),
        ([("steps", True)], "int32"),
        ([("*", False)], "nothing to prune"),
    ],
)
def test_bad_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        prunable(PARAMS, rules)


def test_masks_have_the_parameters_shapes_and_spare_the_rest():
    masks = choose_masks(Evidence(PARAMS), 0.5)
    assert jax.tree.map(jnp.shape, masks) == jax.tree.map(jnp.shape, PARAMS)
    assert count_kept({p: masks[p]["kernel"] for p in ("dense", "heads")}) == (14, 28)
    assert masks["heads"]["kernel"].sum() == 14  # the largest 14 of 28 are among its 16 equal ones
    assert density(masks)["dense/kernel"] == 0


def test_applying_full_masks_changes_nothing():
    kept = apply_masks(full_masks(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, kept, PARAMS)


def test_nan_weights_are_refused_by_name():
    bad = jax.tree.map(lambda x: x, PARAMS)
    bad["dense"] = {"kernel": PARAMS["dense"]["kernel"].at[0, 0].set(jnp.nan), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"'l2' of 'dense/kernel' is NaN at 1 of 12"):
        choose_masks(Evidence(bad), 0.5)


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_bad_ratio_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep ratio is .* must be in \(0, 1\]"):
        choose_masks(Evidence(PARAMS), keep)


def test_missing_evidence_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'taylor' needs Evidence.grads.*dense/kernel"):
        choose_masks(Evidence(PARAMS), 0.5, score=SCORES["taylor"])
