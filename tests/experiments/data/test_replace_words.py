"""Training splits with copies of their texts, made once."""

import jax
import numpy as np
import pytest

from experiments.data import replace_words, sets
from experiments.data.config import DataConfig
from experiments.schema import ConfigError, parse
from experiments.weights import hugging_face
from slim.models import bert
from slim.models.bert import BertConfig, MaskedLM

SMALL = BertConfig(width=4, depth=1, heads=2, hidden=4, positions=16)
FIELDS = {"name": "rotten_tomatoes", "batch_size": 8, "length": 12, "train_split": "train[:20]"}
PLAIN = DataConfig(**FIELDS, eval_split="test[:10]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The file of a masked language model whose vocabulary is MiniLM's."""
    model, ids = MaskedLM(SMALL), np.ones((1, 1), np.int32)
    variables = model.init(jax.random.key(0), ids, ids, train=False)
    folder = tmp_path_factory.mktemp("masked_lm")
    hugging_face.write(folder / hugging_face.FILE, variables, {})
    return folder


@pytest.fixture
def more(checkpoint, tmp_path, monkeypatch):
    """Makes the data config with copies."""
    monkeypatch.setitem(bert.CONFIGS, "small", SMALL)
    said = {"model": str(checkpoint), "size": "small", "copies": 2}
    values = PLAIN.model_dump() | {"data_dir": str(tmp_path)}
    return lambda **fields: parse(
        DataConfig, {**values, "replace_words": {**said, **fields}}, "data"
    )


def test_the_training_split_is_longer_and_the_evaluation_split_the_same(more):
    plain, data = sets.load(PLAIN), sets.load(more())
    assert data.info == sets.info(more())
    assert (data.info.num_train, len(data.train), len(data.eval)) == (60, 60, 10)
    assert data.fingerprint != plain.fingerprint
    assert data.eval.fingerprint() == plain.eval.fingerprint()
    (ids, labels), (others, same) = (d.train.gather(np.arange(len(d.train))) for d in (plain, data))
    np.testing.assert_array_equal(others[:20], ids)
    np.testing.assert_array_equal(same, np.tile(labels, 3))
    assert (others.dtype, same.dtype) == (np.int32, np.int32)
    # About 40% of the words, and texts get no longer.
    first, second = others[20:40], others[40:]
    assert 0.15 < (first != ids).mean() < 0.6
    assert (first != second).any()
    assert ((others != 0).sum(1) <= np.tile((ids != 0).sum(1), 3)).all()
    np.testing.assert_array_equal(others[:, 0], 101)


def test_copies_are_made_once_and_anew_where_they_are_damaged(more, tmp_path, monkeypatch, caplog):
    first = sets.load(more()).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(replace_words, "_make", None)
        assert sets.load(more()).fingerprint == first
    (file,) = (tmp_path / "replaced_words").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    assert sets.load(more()).fingerprint == first
    assert "made anew" in caplog.text
    assert sets.load(more(seed=1)).fingerprint != first
    assert len(list((tmp_path / "replaced_words").iterdir())) == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "no/such"}, "data.replace_words.model = 'no/such': .*experiments.weights.mask"),
        ({"size": "smal"}, "unknown name 'smal'; did you mean 'small'"),
        ({"share": 0.0}, "share = 0.0: .*greater than 0"),
        ({"copies": 0}, "copies = 0: .*greater than or equal to 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_early(more, fields, says):
    with pytest.raises(ConfigError, match=says):
        sets.info(more(**fields))


def test_texts_longer_than_the_model_has_positions_are_refused(more):
    config = more().model_copy(update={"length": 17})
    with pytest.raises(ConfigError, match=r"size = 'small': data.length = 17 is above 16"):
        sets.info(config)


def test_a_model_of_another_size_is_named(more):
    with pytest.raises(ConfigError, match=r"replace_words.model = .*tensor .* has shape"):
        sets.load(more(size="tiny"))


def test_images_have_no_words():
    values = {"name": "digits", "batch_size": 8, "replace_words": {"model": "a", "size": "tiny"}}
    with pytest.raises(ConfigError, match="replace_words is for texts, and digits has images"):
        parse(DataConfig, values, "data")
