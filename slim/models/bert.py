"""BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.

One encoder and three heads, each called as `model.apply(variables, ids, mask, train=bool)`: token
ids `(batch, length)` of int32 and a mask `(batch, length)` that is 0 at padding. Its parameters are
those of `Bert` itself (`embeddings/token`, `layer_0/attention/query/kernel`, ...) and the head's
beside them, so variables of one head, less what is its own, are those of another.

Queries, keys and values are projected by parameters of shape `(width, heads, head_width)`, as in
`slim.models.vit`. The output's is `(heads * head_width, width)`: a matrix, whose rows quantization
can take in groups and GPTQ in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import LayerNorm, check_dropout
from slim.paths import unknown_name

PADDING = 0
"""The id of `[PAD]` in BERT's vocabularies."""

initializer = nn.initializers.truncated_normal(0.02)


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT.

    Attributes:
        width: of the residual stream (the paper's H).
        depth: layers (L).
        heads: of attention (A); a divisor of the width.
        hidden: width of the perceptron, 4 H in the paper.
        vocabulary: number of tokens.
        positions: the longest input.
        types: kinds of segment: the first and the second sentence.
        dropout: of the embeddings, attention weights and outputs of sublayers, in training.
        epsilon: of the normalizations.

    Raises:
        ValueError: a size below 1; heads that do not divide the width; dropout outside [0, 1).
    """

    width: int
    depth: int
    heads: int
    hidden: int
    vocabulary: int = 30_522
    positions: int = 512
    types: int = 2
    dropout: float = 0.1
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        for field in ("width", "depth", "heads", "hidden", "vocabulary", "positions", "types"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        check_dropout(self.dropout)


# Tiny: Turc et al., arXiv:1908.08962; MiniLM of 6 layers: Wang et al., arXiv:2002.10957.
CONFIGS: Mapping[str, BertConfig] = {
    "tiny": BertConfig(width=128, depth=2, heads=2, hidden=512),
    "minilm_l6": BertConfig(width=384, depth=6, heads=12, hidden=1536),
    "bert_base": BertConfig(width=768, depth=12, heads=12, hidden=3072),
}


def bert_config(name: str) -> BertConfig:
    """The sizes of the BERT `name`.

    Raises:
        ValueError: no BERT has that name.

    >>> bert_config("minilm_l6").heads
    12
    """
    if name not in CONFIGS:
        raise ValueError(unknown_name("BERT", name, CONFIGS))
    return CONFIGS[name]


class Embeddings(nn.Module):
    """Token, position and segment embeddings, summed and normalized (figure 2)."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """A table for each."""
        width = self.config.width
        self.token = self.param("token", initializer, (self.config.vocabulary, width))
        self.position = self.param("position", initializer, (self.config.positions, width))
        self.type = self.param("type", initializer, (self.config.types, width))
        self.norm = LayerNorm(epsilon=self.config.epsilon)
        self.drop = nn.Dropout(self.config.dropout)

    def __call__(self, ids: jax.Array, types: jax.Array | None, train: bool) -> jax.Array:
        """`(batch, length)` to `(batch, length, width)`; without types all are of the first."""
        length = ids.shape[1]
        if length > self.config.positions:
            raise ValueError(
                f"input of length {length}: this BERT has positions for {self.config.positions}; "
                "truncate the text"
            )
        x = jnp.take(self.token, ids, axis=0)
        x = x + self.position[:length]
        x = x + (self.type[0] if types is None else jnp.take(self.type, types, axis=0))
        return self.drop(self.norm(x), deterministic=not train).astype(self.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """The product with every token's embedding: `(..., width)` to `(..., vocabulary)`."""
        return jnp.einsum("...w,vw->...v", x, self.token.astype(x.dtype))


class Attention(nn.Module):
    """Multi-head self-attention to what the mask does not leave out."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """`(batch, length, width)` to the same shape."""
        width, heads = self.config.width, self.config.heads
        head_width = width // heads

        def project(name: str) -> jax.Array:
            """`(batch, length, heads, head_width)`."""
            return nn.DenseGeneral(
                (heads, head_width), dtype=self.dtype, kernel_init=initializer, name=name
            )(x)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * head_width**-0.5
        scores = scores.astype(jnp.float32)
        seen = mask[:, None, None, :].astype(bool)
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        weights = nn.Dropout(self.config.dropout, deterministic=not train)(nn.softmax(scores))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(self.dtype), value)
        return nn.Dense(width, dtype=self.dtype, kernel_init=initializer, name="out")(
            mixed.reshape(x.shape)
        )


class EncoderLayer(nn.Module):
    """Attention and a GELU perceptron, each added to its input and normalized after."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """`(batch, length, width)` to the same shape."""
        config, dtype = self.config, self.dtype
        dropout = nn.Dropout(config.dropout, deterministic=not train)

        y = Attention(config, dtype, name="attention")(x, mask, train)
        x = LayerNorm(epsilon=config.epsilon, name="norm1")(x + dropout(y))

        y = nn.Dense(config.hidden, dtype=dtype, kernel_init=initializer, name="mlp1")(x)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(config.width, dtype=dtype, kernel_init=initializer, name="mlp2")(y)
        return LayerNorm(epsilon=config.epsilon, name="norm2")(x + dropout(y))


class Bert(nn.Module):
    """The encoder: called, it gives each token's representation."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The embeddings, then `layer_0`, `layer_1`, ..."""
        self.embeddings = Embeddings(self.config, self.dtype)
        self.layer = [EncoderLayer(self.config, self.dtype) for _ in range(self.config.depth)]

    def encode(
        self, ids: jax.Array, mask: jax.Array, train: bool, types: jax.Array | None
    ) -> jax.Array:
        """The last layer's output, `(batch, length, width)`."""
        x = self.embeddings(ids, types, train)
        for layer in self.layer:
            x = layer(x, mask, train)
        return x

    def __call__(
        self, ids: jax.Array, mask: jax.Array, train: bool, types: jax.Array | None = None
    ) -> jax.Array:
        """`(batch, length)` to `(batch, length, width)` in `dtype`.

        Raises:
            ValueError: the input is longer than there are positions.
        """
        return self.encode(ids, mask, train, types)


class SentenceEmbedding(Bert):
    """The mean over the tokens of a text, of length one.

    Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084.
    """

    def __call__(
        self, ids: jax.Array, mask: jax.Array, train: bool, types: jax.Array | None = None
    ) -> jax.Array:
        """`(batch, length)` to float32 `(batch, width)`."""
        x = self.encode(ids, mask, train, types).astype(jnp.float32)
        weights = mask.astype(bool).astype(jnp.float32)[..., None]
        mean = (x * weights).sum(1) / jnp.maximum(weights.sum(1), 1.0)
        square = jnp.square(mean).sum(-1, keepdims=True)
        return mean * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class SequenceClassification(Bert):
    """The first token's representation, pooled by a tanh layer and classified (section 4.1)."""

    num_classes: int = 2

    def setup(self) -> None:
        """The encoder, a pooler and a classifier."""
        super().setup()
        width = self.config.width
        self.pooler = nn.Dense(width, dtype=self.dtype, kernel_init=initializer)
        self.drop = nn.Dropout(self.config.dropout)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=initializer)

    def __call__(
        self, ids: jax.Array, mask: jax.Array, train: bool, types: jax.Array | None = None
    ) -> jax.Array:
        """`(batch, length)` to float32 logits `(batch, num_classes)`."""
        pooled = jnp.tanh(self.pooler(self.encode(ids, mask, train, types)[:, 0]))
        return self.classifier(self.drop(pooled, deterministic=not train))


class TextClassification(nn.Module):
    """`SequenceClassification` of a named size, called with token ids alone: 0 is padding.

    Its variables are those of `SequenceClassification`.

    Raises:
        ValueError: no BERT has the name `size`; `dropout` outside [0, 1).
    """

    num_classes: int
    size: str = "minilm_l6"
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        replace(bert_config(self.size), dropout=self.dropout)
        super().__post_init__()

    def setup(self) -> None:
        """The classifier, whose variables have no further name in front."""
        config = replace(bert_config(self.size), dropout=self.dropout)
        self.whole = SequenceClassification(config, self.dtype, self.num_classes)
        nn.share_scope(self, self.whole)

    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        """Token ids int32 `(batch, length)` to float32 logits `(batch, num_classes)`."""
        logits: jax.Array = self.whole(ids, ids != PADDING, train)
        return logits


class MaskedLM(Bert):
    """Every token's logits, by a decoder whose kernel is the embedding (task 1, appendix A.2)."""

    def setup(self) -> None:
        """The encoder, a transform and the decoder's bias."""
        super().setup()
        config = self.config
        self.transform = nn.Dense(config.width, dtype=self.dtype, kernel_init=initializer)
        self.transform_norm = LayerNorm(epsilon=config.epsilon)
        self.decoder_bias = self.param(
            "decoder_bias", nn.initializers.zeros_init(), (config.vocabulary,)
        )

    def __call__(
        self, ids: jax.Array, mask: jax.Array, train: bool, types: jax.Array | None = None
    ) -> jax.Array:
        """`(batch, length)` to float32 logits `(batch, length, vocabulary)`."""
        return self.decode(self.encode(ids, mask, train, types))

    def at(self, ids: jax.Array, mask: jax.Array, places: jax.Array, train: bool) -> jax.Array:
        """The logits at some places of each text alone, as others are many and not looked at.

        `(batch, length)` and places `(batch, count)` to float32 `(batch, count, vocabulary)`.
        """
        x = self.encode(ids, mask, train, None)
        return self.decode(jnp.take_along_axis(x, places[..., None], axis=1))

    def decode(self, x: jax.Array) -> jax.Array:
        """The encoder's output `(..., width)` to float32 logits `(..., vocabulary)`."""
        x = nn.gelu(self.transform(x), approximate=False)
        x = self.transform_norm(x)
        return self.embeddings.attend(x).astype(jnp.float32) + self.decoder_bias
