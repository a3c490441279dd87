"""Multi-head latent attention: DeepSeek-V2, arXiv:2405.04434, section 2.1, appendix C.

Keys and values of all heads are made of one narrow latent per token, c, and of one rotary key, r;
queries of a latent of their own. Two forms of the same function:

    whole      keys and values are made of c for every head, as in training
    absorbed   q . (W_UK c) = (W_UK^T q) . c: queries go to the latent's space, and heads attend to
               c itself, of which the cache keeps `latent + rotary_width` numbers a token and layer

All matrices are `(in, out)`; heads are the outer part of a merged dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.deepseek.blockwise import attend
from slim.models.deepseek.config import DeepSeekConfig
from slim.models.deepseek.rotary import rotate, softmax_scale
from slim.models.deepseek.sharding import Layout, constrain, whole
from slim.models.layers import RMSNorm


class LatentCache(NamedTuple):
    """What is kept of the tokens so far, of one layer; or of a stack, layers first.

    Attributes:
        latent: `(batch, length, latent)`, normalized.
        rotary_key: `(batch, length, rotary_width)`, rotated.
    """

    latent: jax.Array
    rotary_key: jax.Array


class LatentAttention(nn.Module):
    """Causal attention.

    Its parameters, by the papers' names: query_down W_DQ, query_up W_UQ, query_rotary W_QR,
    latent_down W_DKV, key_up W_UK, value_up W_UV, rotary_key W_KR, out W_O.

    Attributes:
        config: the sizes.
        dtype: of matrix products.
        layout: where activations lie, if that is to be fixed.
        block: scores of so many queries and keys are in memory at a time, in the whole form; 0:
            those of all.
        block_heads: of so many heads at a time; 0: of all.
    """

    config: DeepSeekConfig
    dtype: DTypeLike = jnp.float32
    layout: Layout | None = None
    block: int = 0
    block_heads: int = 0

    def setup(self) -> None:
        """The matrices, and the latents' normalizations."""
        c = self.config
        if c.query_rank:
            self.query_down = self._matrix("query_down", c.width, c.query_rank)
            self.query_norm = RMSNorm(epsilon=c.epsilon)
        of_query = c.query_rank or c.width
        self.query_up = self._matrix("query_up", of_query, c.heads * c.head_width)
        self.query_rotary = self._matrix("query_rotary", of_query, c.heads * c.rotary_width)
        self.latent_down = self._matrix("latent_down", c.width, c.latent)
        self.latent_norm = RMSNorm(epsilon=c.epsilon)
        self.rotary_key = self._matrix("rotary_key", c.width, c.rotary_width)
        self.key_up = self._matrix("key_up", c.latent, c.heads * c.head_width)
        self.value_up = self._matrix("value_up", c.latent, c.heads * c.value_width)
        self.out = self._matrix("out", c.heads * c.value_width, c.width)

    def _matrix(self, name: str, rows: int, columns: int) -> jax.Array:
        init = nn.initializers.normal(self.config.init_std)
        matrix = jnp.asarray(self.param(name, init, (rows, columns)), self.dtype)
        return whole(matrix, name, self.layout)

    def __call__(
        self, x: jax.Array, cache: LatentCache | None, positions: jax.Array
    ) -> tuple[jax.Array, LatentCache | None]:
        """`(batch, length, width)` to the same shape.

        Without a cache tokens attend to each other, in the whole form. With one, they are written
        to it at their positions and attend to all that it has up to there, in the absorbed form.

        Args:
            x: the tokens.
            cache: of this layer.
            positions: int32 `(length,)`, consecutive.
        """
        queries = self._queries(x, positions)
        latent = constrain(self.latent_norm(x @ self.latent_down), self.layout)
        rotary_key = rotate(x @ self.rotary_key, positions, self.config)
        if cache is None:
            mixed = self._whole(*queries, latent, rotary_key, positions)
        else:
            new = LatentCache(latent, rotary_key)
            cache = jax.tree.map(
                lambda old, rows: jax.lax.dynamic_update_slice_in_dim(
                    old, rows.astype(old.dtype), positions[0], axis=1
                ),
                cache,
                new,
            )
            mixed = self._absorbed(*queries, cache, positions)
        return mixed.reshape(*x.shape[:2], -1) @ self.out, cache

    def _queries(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """q^C `(batch, length, heads, head_width)` and q^R, rotated (V2's eq. 12 to 15)."""
        source = x
        if self.config.query_rank:
            source = constrain(self.query_norm(x @ self.query_down), self.layout)
        rotary = rotate(self._up(source, self.query_rotary), positions, self.config)
        return self._up(source, self.query_up), rotary

    def _whole(
        self,
        query: jax.Array,
        rotary_query: jax.Array,
        latent: jax.Array,
        rotary_key: jax.Array,
        positions: jax.Array,
    ) -> jax.Array:
        """Attention by keys [k^C; k^R] of each head (V2's eq. 16 to 18)."""
        key, value = self._up(latent, self.key_up), self._up(latent, self.value_up)
        shared = jnp.broadcast_to(rotary_key[:, :, None], (*key.shape[:-1], rotary_key.shape[-1]))
        query = jnp.concatenate([query, rotary_query], axis=-1)
        key = jnp.concatenate([key, shared], axis=-1)
        if 0 < self.block < len(positions):
            scale = softmax_scale(self.config)
            return attend(query, key, value, scale, self.block, self.block_heads)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = self._weights(scores, positions[:, None] >= positions)
        return jnp.einsum("bhqk,bkhv->bqhv", weights, value)

    def _absorbed(
        self, query: jax.Array, rotary_query: jax.Array, cache: LatentCache, positions: jax.Array
    ) -> jax.Array:
        """The same, W_UK taken into the queries and W_UV into the output (V2's appendix C)."""
        latent, rotary_key = (kept.astype(self.dtype) for kept in cache)
        key_up, value_up = self._by_head(self.key_up), self._by_head(self.value_up)
        scores = jnp.einsum(
            "bqhd,bkd->bhqk",
            jnp.concatenate([jnp.einsum("bqhd,chd->bqhc", query, key_up), rotary_query], axis=-1),
            jnp.concatenate([latent, rotary_key], axis=-1),
            preferred_element_type=jnp.float32,
        )
        weights = self._weights(scores, positions[:, None] >= jnp.arange(latent.shape[1]))
        return jnp.einsum("bqhc,chv->bqhv", jnp.einsum("bhqk,bkc->bqhc", weights, latent), value_up)

    def _up(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        """From a latent to `(batch, length, heads, each)`."""
        return self._by_head(constrain(x @ matrix, self.layout, columns=True))

    def _by_head(self, x: jax.Array) -> jax.Array:
        """`(..., heads * each)` to `(..., heads, each)`."""
        return x.reshape(*x.shape[:-1], self.config.heads, -1)

    def _weights(self, scores: jax.Array, seen: jax.Array) -> jax.Array:
        """The softmax over what is seen: float32 `(batch, heads, queries, keys)` to `dtype`."""
        scores = jnp.where(seen, scores * softmax_scale(self.config), -jnp.inf)
        return nn.softmax(scores).astype(self.dtype)
