"""The stage `adaptive`: variants are measured, and a load is served by them."""

import json

import numpy as np
import pytest

from experiments.schema import ConfigError
from experiments.stages import adaptive
from experiments.timing import Latency
from tests.experiments import jobs
from tests.experiments.stages.conftest import Stages

MLP = {"name": "mlp", "hidden": (16, 12)}
TINY = {"sizes": (1, 4), "latency_rounds": 2, "phase_seconds": 0.05, "loads": (0.3, 0.5)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Stages(tmp_path_factory.mktemp("mlp"), MLP, None, jobs.stripes())


@pytest.fixture(scope="module")
def nested(made):
    return made.run("slimmable", epochs=8.0, lr=0.2, score="l1", keep_ratios=(1.0, 0.4), middle=0)


@pytest.fixture
def fixed_times(monkeypatch):
    """Each call takes as long as it should, on a slow machine: 1 ms an example, or less."""
    seconds = {"keep_1": 2e-3, "keep_0.4": 1e-3}

    def in_turn(calls, rounds):
        return {
            key: Latency((seconds[key.split("@")[0]] * int(key.split("@")[1]),) * rounds, 1)
            for key in calls
            if calls[key]() is not None
        }

    monkeypatch.setattr(adaptive, "in_turn", in_turn)


def test_variants_and_policies_are_recorded(made, nested, fixed_times):
    directory = made.leave("adaptive", {"slimmable": nested}, **TINY)
    assert (directory / "adaptive.png").stat().st_size > 1000
    record = json.loads((directory / "adaptive.json").read_text())
    assert list(record["variants"]) == ["keep_1", "keep_0.4"]
    network = made.network.shrunk(nested.plans)
    dataset = jobs.stripes()
    for name, row in record["variants"].items():
        narrow = network.nested_plan.narrow(name, nested.variables)
        logits = network.variants[name].predict(narrow, dataset.eval.inputs / np.float32(255))
        assert row["top1"] == pytest.approx((logits.argmax(1) == dataset.eval.labels).mean())
    wide, small = record["variants"].values()
    assert small["parameters"] < wide["parameters"]
    assert small["macs"] <= 0.4 * wide["macs"]
    assert record["target_s"] == pytest.approx(3 * 8e-3)
    assert [phase["rate"] for phase in record["load"]] == pytest.approx([150.0, 250.0])
    assert list(record["policies"]) == ["adaptive", "always keep_1", "always keep_0.4"]
    for service in record["policies"].values():
        assert sum(service["shares"].values()) == pytest.approx(1)
        assert 0 <= service["examples_in_time"] <= 1
    only = record["policies"]["always keep_0.4"]
    assert only["shares"] == {"keep_0.4": 1.0}
    assert only["changes"] == 0
    # The first examples are served, in order, and over again.
    right = logits.argmax(1) == dataset.eval.labels
    served = np.resize(right, record["examples"])
    assert only["top1"] == pytest.approx(served.mean())


def test_what_cannot_be_is_refused(made, nested, fixed_times):
    with pytest.raises(ConfigError, match=r"target_ms: .*'keep_0.4', the fastest, takes 0.001 s"):
        made.leave("adaptive", {"slimmable": nested}, target_ms=0.5, **TINY)
    with pytest.raises(ConfigError, match="no variants; a stage of kind 'slimmable'"):
        made.leave("adaptive", {"shrink": made.model}, **TINY)
    with pytest.raises(ConfigError, match=r"sizes = \(2, 4\): must begin with 1"):
        made.leave("adaptive", {"slimmable": nested}, **{**TINY, "sizes": (2, 4)})
    with pytest.raises(ConfigError, match="nothing arrives"):
        made.leave("adaptive", {"slimmable": nested}, **{**TINY, "loads": (1e-9,)})
    with pytest.raises(ConfigError, match="would change the network inside what 'slimmable'"):
        made.leave("finetune", {"slimmable": nested})
