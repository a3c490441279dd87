"""Scales train, are split over devices and are saved with the parameters."""

import chex
import jax
import numpy as np
import pytest

from experiments import build
from experiments.mesh import MeshConfig
from experiments.precision import PRECISIONS
from experiments.preemption import Preempted
from experiments.simulated import CALIBRATION, SCALES, SimulatedNetwork
from experiments.train import fit
from slim import paths, quant
from slim.quant import TRAINED, Activations, Policy, Rule, Weights
from slim.quant.stored import specs_of
from tests.experiments import jobs

INFO = jobs.stripes().info
FLOAT = build.network({"name": "mlp", "hidden": (16,)}, INFO, PRECISIONS["float32"])
VARIABLES = FLOAT.init(jax.random.key(0))
IMAGES = jax.random.uniform(jax.random.key(1), (16, 8, 8, 1))
SITES = quant.assign(
    FLOAT.graph(), Policy((Rule("*", Weights("int4"), Activations("int4")),), None)
)
CALIBRATED = quant.calibrate(FLOAT.graph(), SITES, VARIABLES, [(IMAGES,)])


def simulated(trained="lsq", *, frozen=True):
    return SimulatedNetwork(FLOAT, specs_of(SITES), trained, frozen)


def trained(directory, preemption=None, devices=1, layout=None, **config):
    job = jobs.job(
        directory,
        devices=devices,
        layout=layout,
        changes={"network": simulated()},
        lr=0.02,
        **config,
    )
    start = simulated().join(VARIABLES, CALIBRATED)
    return fit(job, start, preemption or jobs.Preemption())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), ema=0.9)


def test_what_is_joined_comes_apart():
    net = simulated()
    floats, scales = net.split(net.join(VARIABLES, CALIBRATED))
    chex.assert_trees_all_equal(floats, VARIABLES)
    chex.assert_trees_all_equal(scales, CALIBRATED)


@pytest.mark.parametrize("name", TRAINED)
def test_it_computes_what_is_simulated_whatever_trains_it(name):
    net = simulated(name)
    variables = net.join(VARIABLES, CALIBRATED)
    expected = quant.simulate(FLOAT.graph(), SITES)(VARIABLES, CALIBRATED, IMAGES)
    chex.assert_trees_all_equal(net.predict(variables, IMAGES), expected)
    logits, changed = net.train(variables, IMAGES, jax.random.key(0))
    chex.assert_trees_all_equal(logits, expected)
    chex.assert_trees_all_equal(changed, {CALIBRATION: variables[CALIBRATION]})


def test_the_training_function_is_simulated_where_nothing_is_frozen():
    net = simulated(frozen=False)
    variables = net.join(VARIABLES, CALIBRATED)
    logits, _ = net.train(variables, IMAGES, jax.random.key(0))
    chex.assert_trees_all_close(logits, net.predict(variables, IMAGES), atol=1e-5)


def test_scales_are_trained_and_averaged_and_zero_points_stay(alone):
    before = simulated().join(VARIABLES, CALIBRATED)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        alone.variables["params"][SCALES],
        before["params"][SCALES],
    )
    assert all(jax.tree.leaves(moved))
    chex.assert_trees_all_equal(alone.variables[CALIBRATION], before[CALIBRATION])


@pytest.mark.parametrize("layout", [MeshConfig(), MeshConfig(fsdp=4)])
def test_every_mesh_trains_as_one_device_does(layout, alone, tmp_path):
    several = trained(tmp_path, devices=4, layout=layout, ema=0.9)
    chex.assert_trees_all_close(several.variables, alone.variables, rtol=2e-3, atol=1e-4)


def test_a_stopped_job_goes_on_to_the_same_bits(alone, tmp_path):
    with pytest.raises(Preempted):
        trained(tmp_path, jobs.StopAt(7), ema=0.9)
    chex.assert_trees_all_equal(trained(tmp_path, ema=0.9).variables, alone.variables)


def test_integers_compute_what_was_trained(alone):
    net = simulated()
    floats, scales = net.split(alone.variables)
    small = quant.convert(FLOAT.graph(), SITES, floats, scales)
    found = quant.execute(FLOAT.graph(), SITES)(small, IMAGES)
    chex.assert_trees_all_close(found, net.predict(alone.variables, IMAGES), atol=1e-4)


def test_scales_are_not_decayed(tmp_path):
    config = {"lr": 1e-9, "weight_decay": 1e6, "momentum": 0.0}
    outcome = fit(
        jobs.job(tmp_path, changes={"network": simulated("fixed")}, epochs=0.2, **config),
        simulated().join(VARIABLES, CALIBRATED),
        jobs.Preemption(),
    )
    leaves = paths.flatten(outcome.variables["params"])
    before = paths.flatten(simulated().join(VARIABLES, CALIBRATED)["params"])
    assert not np.array_equal(leaves["head/kernel"], before["head/kernel"])
    for path in (path for path in leaves if path.startswith(SCALES)):
        np.testing.assert_array_equal(leaves[path], before[path], err_msg=path)
