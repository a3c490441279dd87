"""Weights are removed by any score, in structures that fit what the network computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.schema import ConfigError
from slim import paths
from slim.models.vit import ViT
from slim.prune import DISTRIBUTIONS, SCORES, choose_masks, measure_activations
from tests.experiments import jobs

SHORT = {"epochs": 0.25}
ONE_SHOT = {**SHORT, "sparsity_schedule": "one_shot"}


@pytest.mark.parametrize("score", ["layer_sensitive", "fisher", "wanda", "random"])
def test_scores_seen_in_training_and_measured_before_remove_what_they_say(stages, score):
    model = stages().run("prune", score=score, keep_ratio=0.25, batches=2, **ONE_SHOT)
    kept = [mask for path, mask in paths.flatten(model.masks).items() if "kernel" in path]
    assert sum(int(mask.sum()) for mask in kept) == round(0.25 * sum(mask.size for mask in kept))
    for path, leaf in paths.flatten(model.variables["params"]).items():
        removed = ~np.asarray(paths.flatten(model.masks)[path])
        assert not np.asarray(leaf)[removed].any()


def test_activations_are_measured_before_the_training(stages, monkeypatch):
    made = stages()
    seen = []

    def measured(fn, params, batches):
        found = measure_activations(fn, params, batches)
        seen.append(found)
        return found

    monkeypatch.setattr("experiments.stages.evidence.measure_activations", measured)
    model = made.run(
        "prune", score="wanda", keep_ratio=0.5, distribution="per_output", batches=2, **ONE_SHOT
    )
    (found,) = seen
    expected = choose_masks(
        found, 0.5, score=SCORES["wanda"], distribution=DISTRIBUTIONS["per_output"]
    )
    for path, mask in paths.flatten(expected).items():
        np.testing.assert_array_equal(mask, paths.flatten(model.masks)[path])
    norms = np.broadcast_to(found.input_norms["hidden1"]["kernel"], (64, 16))
    assert norms.std() > 0


VIT = ViT(width=8, depth=1, heads=2, num_classes=jobs.LABELS, patch_size=4)
CONTRACTED = {"query": 0, "key": 0, "value": 0, "out": 1, "mlp1": 0, "mlp2": 0}
SPARE = [
    {"pattern": "class_token", "prune": False},
    {"pattern": "patch_embedding/*", "prune": False},
]


def test_n_m_runs_along_the_axis_that_is_summed_over(stages):
    model = stages(module=VIT).run(
        "prune", structure="2:4", keep_ratio=0.5, select=SPARE, **ONE_SHOT
    )
    masks = paths.flatten(model.masks)
    for name, axis in CONTRACTED.items():
        (path,) = [path for path in masks if path.endswith(f"/{name}/kernel")]
        fours = np.moveaxis(np.asarray(masks[path]), axis, -1).reshape(-1, 4)
        np.testing.assert_array_equal(fours.sum(-1), 2, err_msg=path)


@pytest.mark.parametrize(
    ("model", "section", "message"),
    [
        (
            {"name": "mlp", "hidden": (16, 6)},
            {"structure": "2:4", "keep_ratio": 0.5},
            r"prune\.structure = '2:4': .*axis 0 of 'head/kernel' of shape \(6, 4\).* of 4",
        ),
        (
            {"name": "mlp", "hidden": (16,)},
            {"structure": "2:4", "keep_ratio": 0.3},
            r"prune\.structure = '2:4': keep ratio is 0\.3, 2:4 sparsity keeps 0\.5: ask for that",
        ),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(stages, model, section, message):
    with pytest.raises(ConfigError, match=f"^{message}.*$"):
        stages(model).run("prune", **section, **SHORT)


def test_scores_that_are_not_finite_are_refused(stages):
    made = stages()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, made.model.variables)
    with pytest.raises(
        ConfigError, match=r"^prune\.score = 'wanda': score 'wanda' of '\S+' is NaN at .*$"
    ):
        made.run("prune", made.model._replace(variables=broken), score="wanda", **ONE_SHOT)
