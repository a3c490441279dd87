"""Replacing words: which tokens are words, what may stand for them, and how often it does."""

import numpy as np
import pytest

from experiments.data import words
from experiments.data.words import Vocabulary, Words
from experiments.weights import minilm

# Padding, start, end, mask, a full stop; ten whole words, five pieces that go on.
KINDS = np.array(list("sssss." + "w" * 10 + "c" * 5))
PAD, START, END, MASK, _, DOT = range(6)
WORD, PIECE = 6, 16
KNOWN = Vocabulary(*(kind == KINDS for kind in "wcs"), mask=MASK)
TABLE = np.random.default_rng(0).normal(size=(len(KINDS), 4)).astype(np.float32)
IDS = np.array(
    [
        [START, WORD, WORD + 1, PIECE, PIECE + 1, DOT, WORD + 2, END, PAD],
        [START, WORD + 3, PIECE + 2, END, PAD, PAD, PAD, PAD, PAD],
    ]
)
FOUND = Words(np.array([0, 0, 0, 1]), np.array([1, 2, 6, 1]), np.array([2, 5, 7, 3]))


def spans(found):
    return [tuple(map(int, span)) for span in zip(*found, strict=True)]


def test_a_word_runs_on_over_its_pieces():
    assert spans(words.find(IDS, KNOWN)) == spans(FOUND)


def test_the_tokenizers_words_are_those_of_the_text():
    known = words.vocabulary(minilm.tokenizer())
    ids, _ = minilm.tokenize(["it 's a witless , 2nd-rate film ."], 16)
    read = minilm.tokenizer()
    found = [
        "".join(read.id_to_token(int(i)) for i in ids[0, start:stop])
        for _, start, stop in spans(words.find(ids, known))
    ]
    assert found == ["it", "s", "a", "wit##less", "rate", "film"]
    special = {read.id_to_token(int(i)) for i in np.flatnonzero(known.special)}
    assert {t for t in special if "unused" not in t} == {
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    }


def test_candidates_are_the_likeliest_words_and_the_nearest():
    asked = []

    def fill(ids, places):
        asked.append((ids, places))
        tokens = np.arange(len(KINDS))
        # The likeliest is the token numbered by the place, if it were a word.
        return -np.abs(tokens - (WORD + places[:, None])).astype(np.float32)

    found = words.candidates(IDS, FOUND, KNOWN, fill, TABLE, 3)
    assert found[0].tolist() == [WORD + 1, WORD, WORD + 2]
    assert found[2].tolist() == [WORD + 6, WORD + 5, WORD + 7]
    (ids, places), *others = asked
    assert not others
    np.testing.assert_array_equal(ids[np.arange(len(ids)), places], MASK)
    assert (ids != IDS[0]).sum(1).tolist() == [1] * len(ids)
    for row, pieces in ((1, [WORD + 1, PIECE, PIECE + 1]), (3, [WORD + 3, PIECE + 2])):
        mean = TABLE[pieces].mean(0)
        cosines = TABLE @ mean / np.linalg.norm(TABLE, axis=1)
        nearest = [int(i) for i in np.argsort(-cosines) if KNOWN.whole[i]]
        assert found[row].tolist() == nearest[:3]


def test_whole_words_give_way_to_one_token():
    others = np.array([[WORD + 9], [WORD + 8], [WORD + 7], [WORD + 6]])
    made = words.replaced(IDS, FOUND, others, share=1.0, seed=0, copy=0)
    assert made.tolist() == [
        [START, WORD + 9, WORD + 8, DOT, WORD + 7, END, PAD, PAD, PAD],
        [START, WORD + 6, END, PAD, PAD, PAD, PAD, PAD, PAD],
    ]
    assert IDS[0, 1] == WORD  # the texts themselves stay


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_words_are_replaced_as_often_as_is_said_by_all_candidates_alike(share):
    ids = np.full((500, 12), WORD)
    found = words.find(ids, KNOWN)
    others = np.tile(WORD + 1 + np.arange(5), (len(found.text), 1))
    made = words.replaced(ids, found, others, share, seed=1, copy=0)
    total = ids.size
    deviation = np.sqrt(share * (1 - share) * total)
    assert abs((made != WORD).sum() - share * total) < 4 * deviation
    each = np.bincount(made[made != WORD] - WORD, minlength=6)[1:]
    assert np.abs(each - share * total / 5).max() < 4 * np.sqrt(share * total / 5)


def test_copies_differ_and_are_the_same_again():
    others = np.tile(WORD + np.arange(4, 9), (4, 1))
    first, again, second, seeded = (
        words.replaced(IDS, FOUND, others, 0.5, seed, copy)
        for seed, copy in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert (first != seeded).any()
