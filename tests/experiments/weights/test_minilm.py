"""MiniLM's published weights on the model card's sentences, and the names of any BERT's."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.special import erf

from experiments.weights import minilm
from experiments.weights.hugging_face import convert
from slim.models.bert import (
    BertConfig,
    MaskedLM,
    SentenceEmbedding,
    SequenceClassification,
    bert_config,
)

TINY = BertConfig(width=12, depth=2, heads=3, hidden=20, vocabulary=30, positions=16)
LINEAR = {
    "attention.self.query": (12, 12),
    "attention.self.key": (12, 12),
    "attention.self.value": (12, 12),
    "attention.output.dense": (12, 12),
    "intermediate.dense": (20, 12),
    "output.dense": (12, 20),
}


@pytest.fixture(scope="module")
def tensors():
    """A BERT with every head, as Hugging Face's classes name and lay out its tensors."""
    rng = np.random.default_rng(0)
    made = {
        "bert.embeddings.word_embeddings.weight": (30, 12),
        "bert.embeddings.position_embeddings.weight": (16, 12),
        "bert.embeddings.token_type_embeddings.weight": (2, 12),
        "bert.pooler.dense.weight": (12, 12),
        "bert.pooler.dense.bias": (12,),
        "classifier.weight": (3, 12),
        "classifier.bias": (3,),
        "cls.predictions.transform.dense.weight": (12, 12),
        "cls.predictions.transform.dense.bias": (12,),
        "cls.predictions.bias": (30,),
    }
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for i in range(2):
        prefix = f"bert.encoder.layer.{i}"
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        for name, shape in LINEAR.items():
            made[f"{prefix}.{name}.weight"] = shape
            made[f"{prefix}.{name}.bias"] = shape[:1]
    for norm in norms:
        made |= {f"{norm}.weight": (12,), f"{norm}.bias": (12,)}
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in made.items()}
    made["bert.embeddings.position_ids"] = np.arange(16)[None]
    return made


class Reference:
    """BERT on one text without padding, from the paper, by matrices laid out (out, in)."""

    def __init__(self, tensors):
        self.t = tensors

    def linear(self, name, x):
        return x @ self.t[f"{name}.weight"].T.astype(np.float64) + self.t[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def gelu(self, x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def encode(self, ids, types, heads=3):
        tables = (
            self.t[f"bert.embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        )
        rows = zip(tables, (ids, np.arange(len(ids)), types), strict=True)
        x = self.norm("bert.embeddings.LayerNorm", sum(table[i] for table, i in rows))
        for i in range(2):
            layer = f"bert.encoder.layer.{i}"
            q, k, v = (
                np.split(self.linear(f"{layer}.attention.self.{name}", x), heads, axis=-1)
                for name in ("query", "key", "value")
            )
            mixed = []
            for query, key, value in zip(q, k, v, strict=True):
                scores = np.exp(query @ key.T / np.sqrt(query.shape[-1]))
                mixed.append(scores / scores.sum(-1, keepdims=True) @ value)
            y = self.linear(f"{layer}.attention.output.dense", np.concatenate(mixed, -1))
            x = self.norm(f"{layer}.attention.output.LayerNorm", x + y)
            y = self.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", y))
        return x

    def embedding(self, x):
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    def classification(self, x):
        return self.linear("classifier", np.tanh(self.linear("bert.pooler.dense", x[0])))

    def masked_lm(self, x):
        x = self.gelu(self.linear("cls.predictions.transform.dense", x))
        x = self.norm("cls.predictions.transform.LayerNorm", x)
        tokens = self.t["bert.embeddings.word_embeddings.weight"]
        return x @ tokens.T + self.t["cls.predictions.bias"]


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (SentenceEmbedding(TINY), "embedding"),
        (SequenceClassification(TINY, num_classes=3), "classification"),
        (MaskedLM(TINY), "masked_lm"),
    ],
)
def test_converted_tensors_compute_what_the_paper_says(tensors, model, head):
    ids, types = np.array([3, 1, 4, 1, 5, 29, 2]), np.array([0, 0, 0, 0, 1, 1, 1])
    reference = Reference(tensors)
    expected = getattr(reference, head)(reference.encode(ids, types))
    batch = [np.asarray(each, np.int32)[None] for each in (ids, np.ones(7), types)]
    quickly_compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    apply = quickly_compiled(partial(model.apply, train=False))
    out = apply(convert(tensors, model), *batch[:2], types=batch[2])
    np.testing.assert_allclose(out[0], expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def test_older_names_are_read(tensors):
    model = SentenceEmbedding(TINY)
    older = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    jax.tree.map(np.testing.assert_array_equal, convert(older, model), convert(tensors, model))


def test_a_missing_a_spare_and_a_misshapen_tensor_are_named(tensors):
    model = SentenceEmbedding(TINY)
    key = "bert.encoder.layer.1.attention.self.key.weight"
    with pytest.raises(ValueError, match=r"'encoder.layer.1.attention.self.key.weight', wanted fo"):
        convert({name: t for name, t in tensors.items() if name != key}, model)
    with pytest.raises(ValueError, match=r"key.weight' has shape \(12, 8\), which does not become"):
        convert({**tensors, key: np.ones((12, 8))}, model)
    with pytest.raises(ValueError, match=r"no place in the model: encoder.layer.2.output.dense.b"):
        convert({**tensors, "bert.encoder.layer.2.output.dense.bias": np.ones(12)}, model)


def test_the_model_cards_sentences_are_as_similar_as_it_says():
    """Cosines .695, .943 and .257, of texts padded to more than their lengths."""
    ids, mask = minilm.tokenize(
        [
            "That is a happy person",
            "That is a happy dog",
            "That is a very happy person",
            "Today is a sunny day",
        ],
        length=10,
    )
    model = SentenceEmbedding(bert_config("minilm_l6"))
    embed = jax.jit(lambda v, ids, mask: model.apply(v, ids, mask, train=False))
    embedded = embed(minilm.load(), ids, mask)
    np.testing.assert_allclose(embedded[1:] @ embedded[0], [0.695, 0.943, 0.257], atol=5e-4)


def test_texts_are_cut_and_padded_to_the_length():
    ids, mask = minilm.tokenize(["a film .", "one " * 20], length=8)
    assert ids.shape == mask.shape == (2, 8)
    assert ids.dtype == mask.dtype == np.int32
    start, end = 101, 102  # [CLS], [SEP]
    assert ids[0].tolist() == [start, 1037, 2143, 1012, end, 0, 0, 0]
    assert mask[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert (ids[1, 0], ids[1, -1], mask[1].sum()) == (start, end, 8)
