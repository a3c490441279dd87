"""The bench of sentences, on a model that is small and random: what its rows say."""

import jax
import numpy as np
import pytest

from experiments.bench import sentences
from experiments.bench.sentences import W4, W8A8, WAYS, measure
from slim.models.bert import BertConfig, SentenceEmbedding
from slim.quant import Activations
from tests.slim.graph.exactness import random_like

TINY = BertConfig(width=64, depth=1, heads=2, hidden=128, vocabulary=50, positions=8)


@pytest.fixture
def problem():
    """A model, its variables, two batches to judge and one of another size to calibrate."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (30, 8)).astype(np.int32)
    mask = (np.arange(8) < rng.integers(3, 9, (30, 1))).astype(np.int32)
    batches = [(ids[i:j], mask[i:j]) for i, j in ((0, 10), (10, 20), (20, 30))]
    model = SentenceEmbedding(TINY)
    shapes = jax.eval_shape(
        lambda key: model.init(key, *batches[0], train=False), jax.random.key(0)
    )
    return model, random_like(shapes), batches[:2], batches[2:]


@pytest.mark.slow
def test_every_way_is_beside_its_peer(problem):
    ways = {
        W8A8: WAYS[W8A8],
        "W8A8 at 4 bits": sentences.Way(activations=Activations("int4", "percentile"), peer=W8A8),
        W4: WAYS[W4],
        "W4 in groups of 64, GPTQ": WAYS["W4 in groups of 64, GPTQ"],
    }
    rows = {row.name: row for row in measure(ways, *problem)}
    mean = {name: rows[f"{name}: mean cosine"] for name in ways}
    assert mean["W8A8 at 4 bits"].peer == mean[W8A8].ours
    assert mean["W8A8 at 4 bits"].ours < mean[W8A8].ours < 1
    assert mean["W4 in groups of 64, GPTQ"].met
    for name in (W8A8, W4):
        assert mean[name].peer is None
        assert rows[f"{name}: least cosine"].ours < mean[name].ours
        assert rows[f"{name}: greatest difference of a site in integers"].met
    # 4 bytes an entry become 1, or 1/2 and 4 for 64: and what activations and channels need.
    assert 1 / 4 < rows[f"{W8A8}: bytes of matrices"].ratio < 0.29
    assert rows[f"{W4}: bytes of matrices"].ratio == (1 / 2 + 4 / 64) / 4
    assert rows["W8A8 at 4 bits: most of a range cut off, times"].ours > 0


def test_sentences_are_judged_that_were_not_calibrated_on():
    judged, calibration = sentences.sentences()
    ids, other = (np.concatenate([batch[0] for batch in part]) for part in (judged, calibration))
    assert (ids.shape, other.shape) == ((500, 64), (64, 64))
    assert not set(map(bytes, ids)) & set(map(bytes, other))


def test_peers_come_first():
    names = list(WAYS)
    assert all(names.index(way.peer) < i for i, way in enumerate(WAYS.values()) if way.peer)
