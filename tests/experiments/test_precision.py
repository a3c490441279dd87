"""Precisions train alike, and the loss scale moves as it says."""

import jax
import jax.numpy as jnp
import pytest

from experiments import evaluation
from experiments.precision import GROWTH_INTERVAL, MAX_SCALE, PRECISIONS, LossScale, cast
from tests.experiments.jobs import trained

GAP = 0.02  # nats of evaluation loss, where 1.39 is chance


@pytest.fixture
def loss_of(make_job):
    def loss(precision):
        job = make_job(precision=precision, model={"name": "mlp", "hidden": (16,), "dropout": 0.0})
        outcome = trained(job)
        storage = PRECISIONS[precision].storage
        assert {leaf.dtype for leaf in jax.tree.leaves(outcome.variables)} == {jnp.dtype(storage)}
        return evaluation.make(job.network, job.dataset, job.mesh)(outcome.variables)["loss"]

    return loss


def test_every_precision_trains_to_the_loss_of_float32(loss_of):
    losses = {name: loss_of(name) for name in PRECISIONS}
    assert losses["float32"] < 0.5
    for loss in losses.values():
        assert loss == pytest.approx(losses["float32"], abs=GAP)
    assert len(set(losses.values())) == len(losses)  # they are not the same program


def after(scale, good_steps, finite):
    found = LossScale(jnp.float32(scale), jnp.int32(good_steps)).after(jnp.bool_(finite))
    return float(found.scale), int(found.good_steps)


@pytest.mark.parametrize(
    ("scale", "good_steps", "finite", "expected"),
    [
        (8.0, 5, True, (8.0, 6)),
        (8.0, 5, False, (4.0, 0)),
        (8.0, GROWTH_INTERVAL - 1, True, (16.0, 0)),
        (MAX_SCALE, GROWTH_INTERVAL - 1, True, (MAX_SCALE, 0)),
        (1.0, 5, False, (1.0, 0)),
        # What needs no scaling never gets any: a bad step is to fail, not to be skipped.
        (1.0, GROWTH_INTERVAL - 1, True, (1.0, GROWTH_INTERVAL)),
    ],
)
def test_the_scale_moves_as_it_says(scale, good_steps, finite, expected):
    assert after(scale, good_steps, finite) == expected


def test_only_numbers_with_a_point_are_cast():
    tree = {"float": jnp.zeros(2), "int": jnp.zeros(2, jnp.int32), "bool": jnp.zeros(2, bool)}
    found = jax.tree.map(lambda x: str(x.dtype), cast(tree, jnp.float16))
    assert found == {"float": "float16", "int": "int32", "bool": "bool"}
