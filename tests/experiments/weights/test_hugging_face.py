"""BERT's checkpoints: written, read again, and loaded into a recipe's classifier."""

import chex
import jax
import numpy as np
import pytest

from experiments.weights import hugging_face
from experiments.weights.hugging_face import convert, read, write
from slim.models.bert import BertConfig, MaskedLM, SequenceClassification

TINY = BertConfig(width=12, depth=2, heads=3, hidden=20, vocabulary=30, positions=16)


@pytest.fixture(scope="module", params=[MaskedLM(TINY), SequenceClassification(TINY)], ids=repr)
def model(request):
    return request.param


def test_what_is_written_is_read_again(model, tmp_path):
    ids = np.ones((1, 1), np.int32)
    variables = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, train=False)),
    )
    write(tmp_path / "deep" / hugging_face.FILE, variables, {"command": "test"})
    for place in (tmp_path / "deep", tmp_path / "deep" / hugging_face.FILE):
        tensors = read(place)
        chex.assert_trees_all_equal(convert(tensors, model), variables)
    assert tensors["bert.encoder.layer.1.attention.self.key.weight"].shape == (12, 12)
    assert tensors["bert.encoder.layer.1.attention.self.key.bias"].shape == (12,)
    assert [f.name for f in (tmp_path / "deep").iterdir()] == [hugging_face.FILE]


def test_what_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        read(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"cut\.safetensors is truncated or damaged"):
        read(tmp_path / "cut.safetensors")
