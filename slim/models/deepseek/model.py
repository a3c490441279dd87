"""The decoder: layers of latent attention, with SwiGLU or a mixture of experts, in two stacks.

A stack is one layer, scanned, and its parameters have one more dimension in front:

    params/embedding (vocabulary, width)   head (width, vocabulary)   norm
    params/dense/...    the first layers: (dense_layers, ...)
    params/sparse/...   those with experts: (sparse_layers, ...)
    params/ahead_0/...  one more layer for each further token that is predicted, not stacked
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.deepseek.attention import LatentAttention, LatentCache
from slim.models.deepseek.config import DeepSeekConfig
from slim.models.deepseek.foretell import Foretold, foretell
from slim.models.deepseek.moe import MoE, SwiGLU
from slim.models.deepseek.sharding import Layout, constrain, looked_up, whole
from slim.models.layers import RMSNorm
from slim.moe.mixture import Mix, dropless
from slim.paths import map_with_path

Cache = dict[str, LatentCache]
"""Of each stack of layers by its name, layers first."""


class DecoderLayer(nn.Module):
    """Attention, then a perceptron or experts, each normalized before and added to its input.

    Attributes:
        config: the sizes.
        mix: computes the experts; None for a layer that has one perceptron instead.
        auxiliary: the auxiliary losses that are sown, by name.
        dtype: of matrix products.
        layout: where activations lie, if that is to be fixed.
        attention_block: see `LatentAttention.block`.
        attention_heads: see `LatentAttention.block_heads`.
    """

    config: DeepSeekConfig
    mix: Mix | None
    auxiliary: tuple[str, ...] = ()
    dtype: DTypeLike = jnp.float32
    layout: Layout | None = None
    attention_block: int = 0
    attention_heads: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: LatentCache | None, positions: jax.Array, train: bool
    ) -> tuple[jax.Array, LatentCache | None]:
        """`(batch, length, width)` to the same shape; the cache as `LatentAttention` has it."""
        c = self.config
        norm = partial(RMSNorm, epsilon=c.epsilon)
        blocks = self.attention_block, self.attention_heads
        attention = LatentAttention(c, self.dtype, self.layout, *blocks, name="attention")
        y, cache = attention(norm(name="attention_norm")(x), cache, positions)
        x = constrain(x + y, self.layout)

        y = norm(name="mlp_norm")(x)
        if self.mix is None:
            y = SwiGLU(c.hidden, c.init_std, self.dtype, self.layout, name="mlp")(y)
        else:
            experts = MoE(c, self.mix, self.auxiliary, self.dtype, self.layout, name="mlp")
            y = experts(y, train)
        return constrain(x + y, self.layout), cache


class PredictAhead(nn.Module):
    """One more token: norm(layer(M [norm(embedding of the token there); norm(state)])).

    V3's section 2.2, equations 21 and 22; the embedding comes first, as in the published weights.
    """

    config: DeepSeekConfig
    layer: Callable[..., DecoderLayer]
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self, state: jax.Array, embedded: jax.Array, positions: jax.Array, train: bool
    ) -> jax.Array:
        """States before, embeddings of the tokens ahead, both `(batch, length, width)`."""
        c = self.config
        norm = partial(RMSNorm, epsilon=c.epsilon)
        init = nn.initializers.normal(c.init_std)
        project = self.param("project", init, (2 * c.width, c.width))
        both = [norm(name="embedding_norm")(embedded), norm(name="state_norm")(state)]
        matrix = whole(jnp.asarray(project, state.dtype), "project", self.layout)
        x = jnp.concatenate(both, axis=-1) @ matrix
        x, _ = self.layer(name="layer")(x, None, positions, train)
        return norm(name="norm")(x)


class DeepSeek(nn.Module):
    """The decoder, `model.apply(variables, ids, train=bool)`: logits of the next tokens.

    Attributes:
        config: the sizes.
        mix: computes the routed experts. The default is right on every platform; for one that is
            known, `dropless(backend_for(platform))` keeps more for the backward pass.
        dtype: of matrix products; norms, softmax, rotation and the router are float32, and so are
            parameters.
        remat: whether layers are computed again in the backward pass instead of kept.
        auxiliary: the losses of `slim.moe.balance` that are sown, by name.
        layout: where activations lie on a mesh; None leaves it to the compiler, which over
            many devices chooses badly.
        attention_block: attention over whole texts goes by blocks of so many places, which must
            divide a length above it; 0: at once, so that all scores are in memory.
        attention_heads: and, by blocks, by so many heads at a time; 0: all.
    """

    config: DeepSeekConfig
    mix: Mix = dropless()
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    auxiliary: tuple[str, ...] = ("sequence", "z")
    layout: Layout | None = None
    attention_block: int = 0
    attention_heads: int = 0

    def setup(self) -> None:
        """The embedding, the stacks, what predicts ahead, the last norm and the head."""
        c = self.config
        init = nn.initializers.normal(c.init_std)
        self.embedding = self.param("embedding", init, (c.vocabulary, c.width))
        self.head = self.param("head", init, (c.width, c.vocabulary))
        self.norm = RMSNorm(epsilon=c.epsilon)

        layer: Any = DecoderLayer
        scanned: Any = DecoderLayer
        if self.remat:
            layer = nn.remat(DecoderLayer, static_argnums=(4,))
            # A loop's two passes are apart as it is.
            scanned = nn.remat(DecoderLayer, prevent_cse=False, static_argnums=(4,))
        options: dict[str, Any] = {
            "config": c,
            "auxiliary": self.auxiliary,
            "dtype": self.dtype,
            "layout": self.layout,
            "attention_block": self.attention_block,
            "attention_heads": self.attention_heads,
        }
        stacks = _stacks(c)
        for name, depth in stacks.items():
            stack = nn.scan(
                scanned,
                variable_axes=dict.fromkeys(("params", "router", "losses", "load", "logits"), 0),
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast, nn.broadcast),
                length=depth,
            )
            if self.dtype != jnp.float32 and not self.is_initializing():
                # All layers' at once: XLA does so anyway, and gradients are then stacked in `dtype`
                # too, as each is computed, instead of in float32.
                stack = nn.map_variables(stack, "params", partial(_lower, dtype=self.dtype))
            setattr(self, name, stack(mix=self.mix if name == "sparse" else None, **options))
        one = partial(layer, mix=self.mix if "sparse" in stacks else None, **options)
        self.ahead = [PredictAhead(c, one, self.layout) for _ in range(c.predict_ahead)]

    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        """Token ids int32 `(batch, length)` to float32 logits `(batch, length, vocabulary)`."""
        return self.logits(self.states(ids, train)[0])

    def states(self, ids: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """What `logits` takes; `(batch, length, width)` each.

        The first is of the next token. In training the k-th after it is of the token k further on,
        and sees the k after its own: its last k places saw beyond the end, leave them out of the
        loss. What it predicts at place i is `ids[:, i + 1 + k]`.
        """
        positions = jnp.arange(ids.shape[1])
        x = self._embed(ids)
        x, _ = self._layers(x, None, positions, train)
        found = [self.norm(x)]
        # Without its own parameters it would not be initialized.
        for k, module in enumerate(self.ahead if train or self.is_initializing() else (), 1):
            embedded = self._embed(jnp.roll(ids, -k, axis=1))
            found.append(module(found[-1], embedded, positions, train))
        return tuple(found)

    def logits(self, states: jax.Array) -> jax.Array:
        """States `(batch, length, width)`, or some places of them, to float32 logits.

        All of them take much memory, `(batch, length, vocabulary)`: cut states along the length, or
        let `foretell` compare them with what follows.
        """
        head = jnp.asarray(self.head, self.dtype)
        # Flat: where a gradient sums over two dimensions, XLA's CPU compiler takes 8 times as long.
        rows = states.reshape(-1, states.shape[-1])
        logits = jnp.matmul(rows, head, preferred_element_type=jnp.float32)
        return constrain(logits.reshape(*states.shape[:-1], -1), self.layout, columns=True)

    def foretell(self, states: jax.Array, labels: jax.Array, parts: int = 1) -> Foretold:
        """How well states tell the tokens; in parts of the vocabulary, without all logits.

        Args:
            states: `(batch, length, width)`, or some places of them.
            labels: int32 `(batch, length)`, what follows them.
            parts: into how many the vocabulary is divided, of each device's share of the head.
        """
        return foretell(states, jnp.asarray(self.head, self.dtype), labels, parts, self.layout)

    def step(self, ids: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """The next tokens' logits, given what the cache has of those before; see `decode`."""
        positions = position + jnp.arange(ids.shape[1])
        x, cache = self._layers(self._embed(ids), cache, positions, False)
        return self.logits(self.norm(x)), cache

    def _embed(self, ids: jax.Array) -> jax.Array:
        found = jnp.take(self.embedding, ids, axis=0).astype(self.dtype)
        return looked_up(found, self.layout)

    def _layers(
        self, x: jax.Array, cache: Cache | None, positions: jax.Array, train: bool
    ) -> tuple[jax.Array, Cache]:
        """Both stacks; the caches are empty where there was none."""
        caches = {}
        for name in _stacks(self.config):
            before = None if cache is None else cache[name]
            x, caches[name] = getattr(self, name)(x, before, positions, train)
        return x, caches


def _lower(params: Any, dtype: DTypeLike) -> Any:
    """The matrices in the dtype that they are multiplied in: all but routers' and norms' scales."""

    def lower(path: str, leaf: jax.Array) -> jax.Array:
        return leaf if path.endswith(("scale", "router/kernel")) else leaf.astype(dtype)

    return map_with_path(lower, params)


def _stacks(config: DeepSeekConfig) -> dict[str, int]:
    """The stacks of layers that there are, in order, with their depths."""
    depths = {"dense": config.dense_layers, "sparse": config.sparse_layers}
    return {name: depth for name, depth in depths.items() if depth}


def empty_cache(
    config: DeepSeekConfig, batch: int, length: int, dtype: DTypeLike = jnp.float32
) -> Cache:
    """A cache for `length` tokens of each of `batch` texts.

    >>> from slim.models.deepseek import deepseek_config
    >>> empty_cache(deepseek_config("tiny"), 1, 100)["sparse"].latent.shape
    (2, 1, 100, 32)
    """
    return {
        name: LatentCache(
            jnp.zeros((depth, batch, length, config.latent), dtype),
            jnp.zeros((depth, batch, length, config.rotary_width), dtype),
        )
        for name, depth in _stacks(config).items()
    }


def decode(
    model: DeepSeek, variables: Any, ids: jax.Array, cache: Cache, position: jax.Array | int
) -> tuple[jax.Array, Cache]:
    """Tokens at the end of a text whose beginning is in the cache: the absorbed form.

    Args:
        model: the decoder.
        variables: its `params`, and `router` if it has biases.
        ids: int32 `(batch, count)`, one or more; a whole prompt goes in at once.
        cache: from `empty_cache`, or the last call.
        position: of the first of them, int32 (). With `count` it must not pass the cache's length,
            which is not checked: beyond it the last places are overwritten.

    Returns:
        float32 logits `(batch, count, vocabulary)`, those of the whole text to rounding, and the
        cache with these tokens.
    """
    position = jnp.asarray(position, jnp.int32)
    result: Any = model.apply(variables, ids, cache, position, method="step")
    return result
