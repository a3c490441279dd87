"""A decoder whose experts are on several devices trains as on one, in whatever it saves memory."""

import numpy as np
import pytest

from experiments.logs import METRICS, jsonl
from experiments.mesh import MeshConfig, ShardingRule
from experiments.preemption import Preempted
from tests.experiments import jobs
from tests.experiments.jobs import StopAt, flat, trained

pytestmark = pytest.mark.slow

DEVICES = 8
# Each dimension fills a tile in two parts, and no token is dropped.
MODEL = {**jobs.DECODER, "width": 32, "hidden": 32, "expert_hidden": 32, "latent": 32}
MODEL |= {"head_width": 16, "value_width": 16, "balance_weight": 0.01, "expert_buffer": 0.0}
SAVING = {"remat": True, "attention_block": 4, "attention_heads": 1, "expert_parts": 2}
SAVING |= {"vocabulary_parts": 2, "predict_ahead": 1}
MESHES = {"2 x 4": {"fsdp": 2, "expert": 4}, "8 x 1": {"fsdp": 8}}
RULES = (ShardingRule(pattern="*", split="deepseek"),)


def job(directory, axes=None, model=MODEL, **changes):
    """Of 8 steps, on one device or on eight."""
    layout = MeshConfig(**axes, rules=RULES) if axes else MeshConfig()
    return jobs.job(
        directory,
        model=model,
        dataset=jobs.language(),
        devices=DEVICES if axes else 1,
        layout=layout,
        **{"epochs": 1.0, "lr": 0.1, "eval_epochs": 10.0, **changes},
    )


def losses(directory):
    records = jsonl.read(directory / METRICS)
    return {r.step: r.values["train/loss"] for r in records if "train/loss" in r.values}


def assert_same_losses(found, expected):
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of one device and the variables then, of what saves memory and what does not."""
    folder = tmp_path_factory.mktemp("alone")
    plain = {**MODEL, "predict_ahead": 1}
    outcome = trained(job(folder, model=plain))
    return losses(folder), flat(outcome)


@pytest.mark.parametrize("name", MESHES)
def test_losses_over_eight_devices_are_those_of_one(name, tmp_path, alone):
    """Saving memory by all that there is, at that."""
    made = job(tmp_path, MESHES[name], {**MODEL, **SAVING})
    outcome = trained(made)
    expected, variables = alone
    assert_same_losses(losses(tmp_path), expected)
    for path, leaf in flat(outcome).items():
        np.testing.assert_allclose(leaf, variables[path], atol=2e-4, err_msg=path)
    gate = outcome.variables["params"]["sparse"]["mlp"]["experts"]["gate"]
    parts = {axis: MESHES[name].get(axis, 1) for axis in ("expert", "fsdp")}
    # Eight parts of 32 columns fill no tiles.
    width = 32 // parts["fsdp"] if parts["fsdp"] == 2 else 32
    assert gate.sharding.shard_shape(gate.shape) == (1, 4 // parts["expert"], width, 32)


@pytest.mark.parametrize("axes", [MESHES["8 x 1"], None], ids=["8 x 1", "one device"])
def test_what_was_saved_on_one_mesh_goes_on_elsewhere(axes, tmp_path):
    """On a (2, 4) mesh to its fifth step, then on another."""
    whole = tmp_path / "whole"
    trained(job(whole))
    with pytest.raises(Preempted):
        trained(job(tmp_path / "run", MESHES["2 x 4"]), StopAt(5))
    assert len(losses(tmp_path / "run")) == 5
    trained(job(tmp_path / "run", axes))
    assert_same_losses(losses(tmp_path / "run"), losses(whole))
