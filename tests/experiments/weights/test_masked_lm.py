"""Training a masked language model: what is hidden, and that it is learnt."""

import jax
import numpy as np
import pytest

from experiments.data.words import Vocabulary
from experiments.weights import hugging_face, masked_lm
from slim.models.bert import MaskedLM
from tests.experiments import jobs

TOKENS = 200
KNOWN = Vocabulary(np.arange(TOKENS) > 3, np.zeros(TOKENS, bool), np.arange(TOKENS) <= 3, mask=3)
LETTERS = KNOWN._replace(
    **{name: value[: jobs.VOCABULARY] for name, value in KNOWN._asdict().items() if name != "mask"}
)


def test_15_percent_are_hidden_of_which_80_are_masked_and_10_shown():
    random = np.random.default_rng(0)
    ids = random.integers(4, TOKENS, (2000, 22))
    ids[:, 0], ids[:, 21], ids[1000:, 12], ids[1000:, 13:] = 1, 2, 2, 0
    batch = masked_lm.corrupt(random, ids, KNOWN)
    assert batch.weights.sum(1).tolist() == [3] * 1000 + [2] * 1000  # of 20 and of 11
    chosen = batch.weights > 0
    rows = np.nonzero(chosen)[0]
    places, targets = batch.places[chosen], batch.targets[chosen]
    np.testing.assert_array_equal(ids[rows, places], targets)
    assert targets.min() > 3
    untouched = np.ones(ids.shape, bool)
    untouched[rows, places] = False
    np.testing.assert_array_equal(batch.ids[untouched], ids[untouched])
    seen = batch.ids[rows, places]
    shares = [(seen == 3).mean(), (seen == targets).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1 + 0.1 / 196], atol=0.025)
    assert set(seen) <= {3, *range(4, TOKENS)}


def test_a_text_without_tokens_predicts_none():
    batch = masked_lm.corrupt(np.random.default_rng(0), np.array([[1, 2, 0, 0]]), KNOWN)
    assert not batch.weights.any()
    assert batch.ids.tolist() == [[1, 2, 0, 0]]


@pytest.mark.slow
def test_what_follows_from_the_other_tokens_is_learnt():
    """Texts in which all tokens are the same: the others say what a hidden one is."""
    data = jobs.words()
    for source in (data.train, data.eval):
        letters = 4 + np.arange(len(source)) % 8
        source.inputs = np.where(source.inputs == 0, 0, letters[:, None]).astype(np.int32)
    model, ids = MaskedLM(jobs.BERT), np.ones((1, 1), np.int32)
    made = model.init(jax.random.key(0), ids, ids, train=False)["params"]
    encoder = {name: tree for name, tree in made.items() if name not in masked_lm.HEAD}
    begun = masked_lm.begin(model, hugging_face.tensors_of({"params": encoder}), seed=1)
    before, _ = masked_lm.evaluate(model, begun, data, LETTERS)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        trained = masked_lm.train(model, begun, data, LETTERS, steps=200, rate=2e-2, seed=0)
    after, among = masked_lm.evaluate(model, trained, data, LETTERS)
    assert before < 0.4 < 0.9 < after <= among
