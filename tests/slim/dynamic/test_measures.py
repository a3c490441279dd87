"""What every measure of a text's difficulty promises, and what each one is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.dynamic.measures import MEASURES
from slim.dynamic.vocabulary import read_vocabulary

PIECES = {"[PAD]": 0, "the": 1, "film": 2, "un": 3, "##even": 4, ",": 5, "but": 6, "not": 7}
SPECIAL = {"[CLS]": 8, "[SEP]": 9}
WORDS = read_vocabulary(PIECES | SPECIAL, special=(0, 8, 9))
IDF = jnp.asarray(np.float32([9, 0.5, 1, 3, 4, 0.25, 0.75, 2, 9, 9]))
TEXTS = np.random.default_rng(0).integers(1, 8, size=(8, 6)).astype(np.int32)
every = pytest.mark.parametrize("name", MEASURES)


def text(*pieces):
    return jnp.asarray([[(PIECES | SPECIAL)[piece] for piece in pieces]], jnp.int32)


def test_table():
    assert [measure.name for measure in MEASURES.values()] == list(MEASURES)


@every
def test_pure_under_jit_without_a_second_compilation(name):
    value = MEASURES[name].value
    jitted = jax.jit(lambda *given: value(*given))
    np.testing.assert_allclose(jitted(TEXTS, WORDS, IDF), value(TEXTS, WORDS, IDF), rtol=1e-6)
    jitted(TEXTS[::-1].copy(), WORDS, 2 * IDF)
    assert jitted._cache_size() == 1


@every
def test_abstract_evaluation(name):
    given = jax.eval_shape(lambda: (jnp.asarray(TEXTS), WORDS, IDF))
    result = jax.eval_shape(MEASURES[name].value, *given)
    assert (result.shape, result.dtype) == ((8,), jnp.float32)


@every
def test_padding_and_special_tokens_make_no_difference(name):
    value = MEASURES[name].value
    more = np.pad(TEXTS, ((0, 0), (1, 3)))
    more[:, 0], more[:, -3] = SPECIAL["[CLS]"], SPECIAL["[SEP]"]
    np.testing.assert_allclose(value(more, WORDS, IDF), value(TEXTS, WORDS, IDF), rtol=1e-6)
    assert value(text("[CLS]", "[SEP]", "[PAD]"), WORDS, IDF).tolist() == [0]


@every
def test_sharded_batches(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_text = NamedSharding(mesh, PartitionSpec("data"))
    value = MEASURES[name].value
    compiled = jax.jit(value).lower(jax.device_put(TEXTS, by_text), WORDS, IDF).compile()
    result = compiled(jax.device_put(TEXTS, by_text), WORDS, IDF)
    assert result.sharding.is_equivalent_to(by_text, 1)
    np.testing.assert_allclose(result, value(TEXTS, WORDS, IDF), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rarity", (0.5 + 1 + 0.75 + 3 + 4 + 2 + 2) / 7),
        ("rarest", 4),
        ("length", 7),
        ("clauses", 1),
        ("contrasts", 3),
        ("variety", 6 / 7),
        ("pieces", 7 / 6),
    ],
)
def test_of_a_text(name, expected):
    ids = text("[CLS]", "the", "film", "but", "un", "##even", "not", "not", "[SEP]", "[PAD]")
    np.testing.assert_allclose(MEASURES[name].value(ids, WORDS, IDF), [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pieces": {}}, "pieces: 0 of them"),
        ({"special": (0, 101)}, r"special ids \[101\] are of no piece"),
        ({"clauses": ("и", "но")}, "clauses: none of и, но"),
    ],
)
def test_what_is_no_vocabulary_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        read_vocabulary(**{"pieces": PIECES, "special": (0,), **changed})


def test_words_may_be_left_out():
    assert not read_vocabulary(PIECES, special=(0,), clauses=()).clause.any()
