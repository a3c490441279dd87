"""The sums are exact, whatever the batches, and rows that only pad do not count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.measure import language

VOCABULARY = 7


def batch(rows: int, seed: int):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 5, VOCABULARY)).astype(np.float32)
    return logits, random.integers(VOCABULARY, size=(rows, 5))


def test_scores_are_those_of_all_tokens_together():
    parts = [batch(3, 0), batch(2, 1)]
    acc = language.init()
    for logits, labels in parts:
        acc = jax.jit(language.update)(acc, logits, labels, jnp.ones(len(labels)))
    scores = language.result(acc, bytes_per_token=2.0)
    logits, labels = (np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True))
    chosen = np.take_along_axis(logits, labels[..., None].astype(int), -1)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - chosen
    assert float(scores.loss) == pytest.approx(losses.mean(), rel=1e-6)
    assert float(scores.top1) == pytest.approx((logits.argmax(-1) == labels).mean())
    assert float(scores.perplexity) == pytest.approx(math.exp(losses.mean()), rel=1e-6)
    assert float(scores.bits_per_byte) == pytest.approx(losses.mean() / math.log(2) / 2, rel=1e-6)


def test_a_row_that_only_pads_changes_nothing_whatever_is_in_it():
    logits, labels = batch(3, 0)
    expected = language.update(language.init(), logits[:2], labels[:2], jnp.ones(2))
    logits[2] = np.nan
    found = language.update(language.init(), logits, labels, jnp.array([1.0, 1.0, 0.0]))
    for got, wanted in zip(found, expected, strict=True):
        assert float(got) == pytest.approx(float(wanted))


def test_scores_of_nothing_are_not_numbers():
    assert all(np.isnan(score) for score in language.result(language.init()))
