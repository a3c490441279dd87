"""The stage `dynamic`: what it is given, what it leaves, what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import recipe
from experiments.report import Dynamic
from experiments.schema import ConfigError
from experiments.stages.stage import Model
from slim import models
from slim.dynamic import ExitPlan
from slim.dynamic.exit_plan import with_fresh
from slim.graph import match, taps
from tests.experiments import jobs

SMALL = {"batch_size": 2, "singles": 2, "latency_rounds": 1, "tolerances": (0.1, 1.0)}


def with_exits(made, patterns=("*:block",), **options):
    graph = made.network.graph()
    found = [name for pattern in patterns for name in match(graph, pattern)]
    names = sorted(found, key=list(taps(graph)).index)[1:]
    plan = ExitPlan(tuple(names), jobs.LABELS, **options)
    fresh = plan.init(graph, jax.random.key(0))
    return Model(with_fresh(made.model.variables, fresh), plans=(plan,))


def read(directory):
    return Dynamic.model_validate_json((directory / "dynamic.json").read_text())


@pytest.mark.slow
def test_texts_of_several_lengths(stages, monkeypatch):
    config = models.bert.BertConfig(16, 3, 4, 24, vocabulary=20, positions=jobs.LENGTH)
    monkeypatch.setitem(models.bert.CONFIGS, "tiny", config)
    words = dataclasses.replace(jobs.words(), buckets=(5,))
    made = stages({"name": "bert", "size": "tiny"}, dataset=words)
    exits = with_exits(made, pooling="first")
    light = made.run("depth", remove=("*/layer_2/*", "*/layer_1/*"))
    directory = made.leave(
        "dynamic", {"depth": light, "exits": exits}, criteria=("confidence",), complexity=True,
        light="depth", **SMALL,
    )  # fmt: skip
    names = {path.name for path in directory.iterdir()}
    assert names == {"dynamic.json", "table.md", "dynamic.png", "shares.png"}
    found = read(directory)
    assert (found.model, found.full, found.light) == ("exits", "train", "depth")
    assert found.sizes == (1, 2)
    assert list(found.ways) == ["confidence", "confidence, learned", "complexity", "dual"]
    # The exits are on the full network, of lengths of their own.
    assert found.accuracy == found.exit_accuracy[-1]
    logits = jax.jit(made.network.predict)(made.model.variables, words.eval.inputs)
    assert found.accuracy == (np.asarray(logits).argmax(-1) == words.eval.labels).mean()
    assert found.exit_macs[0] < found.macs < found.exit_macs[-1]
    for way in found.ways.values():
        assert min(tried.as_foretold for tried in way.tried) > 0.97  # but for rounding


@pytest.mark.slow
def test_images(stages):
    made = stages({"name": "resnet8", "width": 4})
    exits = with_exits(made, ("*:end", "*:block"))
    found = read(made.leave("dynamic", {"exits": exits}, examples=20, **SMALL))
    assert found.examples == 20
    assert len(found.exit_accuracy) == len(exits.plans[-1].boundaries) + 1
    with pytest.raises(ConfigError, match=r"complexity = True: it is of texts"):
        made.leave("dynamic", {"exits": exits}, complexity=True)
    with pytest.raises(ConfigError, match="light = 'exits': takes"):
        made.leave("dynamic", {"exits": exits}, light="exits")


def test_a_model_without_exits_is_refused(stages):
    made = stages()
    with pytest.raises(ConfigError, match="model = 'finetune': the network has no exits"):
        made.leave("dynamic", {"finetune": made.model})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": "exit"}, "dynamic.model: unknown name 'exit'; did you mean 'exits'"),
        ({"full": "trian"}, "dynamic.full: unknown name 'trian'; did you mean 'train'"),
        ({"light": "train"}, "light = 'train': it is the full network too"),
        ({"criteria": ("confident",)}, "did you mean 'confidence'"),
        ({"learned": ("patience",)}, "unknown name 'patience'"),
        ({"tolerances": (0.1, 0.1)}, "each may be there once"),
        ({"criteria": (), "learned": ()}, "name one to try"),
    ],
)
def test_what_cannot_be_is_refused(section, message):
    data = {"name": "digits", "batch_size": 8, "eval_batch_size": 8}
    fields = {"name": "test", "data": data, "model": {"name": "resnet8"}}
    stages = ("train", "exits", "dynamic")
    with pytest.raises(ConfigError, match=message):
        recipe.resolve({**fields, "stages": stages, "dynamic": section}, 1)
