"""BERT and its heads: sizes, what padding may not change, and what can be cut."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models import bert, create
from slim.models.bert import (
    Bert,
    BertConfig,
    MaskedLM,
    SentenceEmbedding,
    SequenceClassification,
    bert_config,
)
from slim.paths import flatten
from tests.slim.graph.exactness import assert_exact, random_like

TINY = BertConfig(width=24, depth=1, heads=3, hidden=40, vocabulary=50, positions=16, dropout=0.0)
HEADS = {
    "encoder": Bert(TINY),
    "embedding": SentenceEmbedding(TINY),
    "classification": SequenceClassification(TINY, num_classes=4),
    "masked lm": MaskedLM(TINY),
}
every_head = pytest.mark.parametrize("name", HEADS)

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (3, 7)).astype(np.int32)
MASK = (np.arange(7) < np.array([[7], [4], [5]])).astype(np.int32)


def shapes(model, length=7):
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    init = partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), ids, ids)


def evaluation(model):
    return lambda variables, ids, mask: model.apply(variables, ids, mask, train=False)


@pytest.mark.parametrize(
    ("name", "head", "parameters"),
    [
        ("tiny", SequenceClassification, 4_386_178),
        ("minilm_l6", SequenceClassification, 22_713_216 + 2 * 384 + 2),
        ("bert_base", MaskedLM, 109_514_298),
    ],
)
def test_parameters_are_as_many_as_published(name, head, parameters):
    leaves = jax.tree.leaves(shapes(head(bert_config(name))))
    assert sum(leaf.size for leaf in leaves) == parameters


@every_head
def test_padding_is_not_looked_at(name):
    fn = jax.jit(evaluation(HEADS[name]))
    variables = random_like(shapes(HEADS[name]))
    one, other, all_seen = (
        np.asarray(fn(variables, ids, mask))
        for ids, mask in [
            (IDS, MASK),
            (np.where(MASK, IDS, 49 - IDS), MASK),
            (IDS, np.ones_like(MASK)),
        ]
    )
    if one.ndim == 3:
        one, other, all_seen = (out[MASK.astype(bool)] for out in (one, other, all_seen))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - all_seen).max() > 1e-3


def test_embeddings_are_of_length_one_and_of_nothing_zero():
    variables = random_like(shapes(HEADS["embedding"]))

    def embed(variables, mask):
        out = evaluation(HEADS["embedding"])(variables, IDS, mask)
        return jnp.square(out).sum(), jnp.linalg.norm(out, axis=-1)

    gradient, norms = jax.jit(jax.grad(embed, has_aux=True))(
        variables, MASK.astype(bool) & (np.arange(3) < 2)[:, None]
    )
    np.testing.assert_allclose(norms, [1, 1, 0], atol=1e-6)
    chex.assert_tree_all_finite(gradient)


def test_without_types_all_are_of_the_first_sentence():
    model, variables = HEADS["classification"], random_like(shapes(HEADS["classification"]))

    @jax.jit
    def three(variables):
        types = (None, np.zeros_like(IDS), np.ones_like(IDS))
        return [model.apply(variables, IDS, MASK, train=False, types=each) for each in types]

    without, first, second = three(variables)
    np.testing.assert_allclose(without, first, rtol=1e-6)
    assert np.abs(first - second).max() > 1e-3


@every_head
def test_a_training_step_moves_every_parameter(name):
    model = HEADS[name].clone(config=replace(TINY, dropout=0.1))
    variables = random_like(shapes(model))

    @jax.jit
    @jax.grad
    def gradient(variables):
        out = model.apply(variables, IDS, MASK, train=True, rngs={"dropout": jax.random.key(1)})
        return (out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)).sum()

    for path, value in flatten(gradient(variables)).items():
        assert np.isfinite(value).all(), path
        # A constant added to every key moves every score of a query alike: softmax ignores it.
        assert np.any(value) or path.endswith("attention/key/bias"), path


def test_in_bfloat16_parameters_and_results_are_float32_and_near():
    for exact in HEADS.values():
        rounded = exact.clone(dtype=jnp.bfloat16)
        assert shapes(exact) == shapes(rounded)
        out = jax.eval_shape(evaluation(rounded), shapes(rounded), IDS, MASK)
        assert out.dtype == (jnp.bfloat16 if exact is HEADS["encoder"] else jnp.float32)
    exact = HEADS["classification"]
    variables = random_like(shapes(exact))
    a, b = (
        jax.jit(evaluation(model))(variables, IDS, MASK)
        for model in (exact, exact.clone(dtype=jnp.bfloat16))
    )
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


@every_head
def test_heads_and_widths_are_found_and_the_cut_model_is_the_masked_one(name):
    """The residual stream is cut too, unless it is the result."""
    model = HEADS[name]
    variables = random_like(shapes(model))
    found = assert_exact(evaluation(model), variables, IDS, MASK, gradients=False)
    expected = {
        "params/layer_0/attention/key/kernel:1": 3,
        "params/layer_0/attention/key/kernel:2": 8,
        "params/layer_0/attention/value/kernel:2": 8,
        "params/layer_0/mlp1/kernel:1": 40,
    }
    if name in ("classification", "masked lm"):
        expected["params/embeddings/position:1"] = 24
    if name == "classification":
        expected["params/pooler/kernel:1"] = 24
    assert {group.name: group.size for group in found.values()} == expected


def test_the_classifier_of_ids_alone_sees_no_padding_and_has_the_same_variables(monkeypatch):
    monkeypatch.setitem(bert.CONFIGS, "tiny", TINY)
    alone = create("bert", num_classes=4, size="tiny", dropout=0.2)
    whole = SequenceClassification(replace(TINY, dropout=0.2), num_classes=4)
    ids = np.where(MASK, np.maximum(IDS, 1), 0).astype(np.int32)
    like = jax.eval_shape(partial(alone.init, train=False), jax.random.key(0), ids)
    assert like == shapes(whole)
    variables, rngs = random_like(like), {"dropout": jax.random.key(3)}

    def both(variables, train):
        found = alone.apply(variables, ids, train, rngs=rngs)
        return found, whole.apply(variables, ids, MASK, train, rngs=rngs)

    both = partial(jax.jit(both, static_argnums=1), variables)
    (found, expected), (trained, expected_trained) = both(False), both(True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(trained, expected_trained)
    assert np.abs(found - trained).max() > 1e-3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="input of length 17: this BERT has positions for 16"):
        shapes(HEADS["encoder"], length=17)
    with pytest.raises(ValueError, match="BERT: unknown name 'minilm'; did you mean 'minilm_l6'"):
        bert_config("minilm")
    for wrong, complaint in [
        ({"heads": 5}, "heads = 5 must divide width = 24"),
        ({"depth": 0}, "depth = 0 must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0 must be in"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            replace(TINY, **wrong)
