"""Text from a decoder with a cache: tokens drawn one by one, in one compiled loop.

Nothing here knows the decoder: the function of its step does, and has its weights.

    step = partial(decode, model, variables)                    # of slim.models.deepseek
    new = generate(step, empty_cache(config, 1, 64), prompt, key, length=32, draw=sampler(0.8))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any

Step = Callable[[jax.Array, PyTree, jax.Array], tuple[jax.Array, PyTree]]
"""Token ids `(batch, count)`, a cache and the position of the first of them, int32 (), to float32
logits `(batch, count, vocabulary)` and the cache with these tokens."""
Draw = Callable[[jax.Array, jax.Array], jax.Array]
"""A key and float32 logits `(batch, vocabulary)` to tokens int32 `(batch,)`."""


def greedy(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The likeliest token, the first of equals. `key` is not used."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def sampler(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Draw:
    """Draws a token from softmax(logits / temperature), cut to its likeliest.

    Args:
        temperature: above 0, where `greedy` is the limit.
        top_k: how many tokens may be drawn (Fan et al., arXiv:1805.04833); 0 for all.
        top_p: of these, the fewest whose probabilities reach this sum (nucleus sampling, Holtzman
            et al., arXiv:1904.09751); 1 for all.

    Raises:
        ValueError: one of them is out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} must be above 0; or draw by `greedy`")
    if top_k < 0:
        raise ValueError(f"top_k = {top_k} must be at least 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p} must be in (0, 1]")

    def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
        count = logits.shape[-1]
        # Sorted, so that ties are cut too.
        best, order = jax.lax.top_k(logits / temperature, min(top_k, count) if top_k else count)
        likely = jax.nn.softmax(best)
        before = jnp.cumsum(likely, axis=-1) - likely
        place = jax.random.categorical(key, jnp.where(before < top_p, best, -jnp.inf))
        return jnp.take_along_axis(order, place[:, None], axis=-1)[:, 0].astype(jnp.int32)

    return draw


def generate(
    step: Step,
    cache: PyTree,
    prompt: jax.Array,
    key: jax.Array,
    *,
    length: int,
    draw: Draw = greedy,
    stop: int | None = None,
) -> jax.Array:
    """`length` tokens that go on from each prompt: int32 `(batch, length)`.

    Where a text has ended, by the token `stop`, it stands from there on; the loop ends when all
    have.

    Args:
        step: the decoder.
        cache: an empty one, for at least `prompt` and `length` tokens.
        prompt: int32 `(batch, count)`, one token or more, all of one length.
        key: of what is drawn.
        length: at least 1.
        draw: `greedy`, or a `sampler`.
        stop: the token that ends a text, if any does.

    Raises:
        ValueError: the prompt is empty, or length is below 1.
    """
    batch, count = prompt.shape
    if count < 1 or length < 1:
        raise ValueError(f"prompts of {count} tokens and length = {length} must be at least 1")
    logits, cache = step(prompt, cache, jnp.int32(0))
    last = draw(jax.random.fold_in(key, 0), logits[:, -1])
    texts = jnp.full((batch, length), 0 if stop is None else stop, jnp.int32).at[:, 0].set(last)

    State = tuple[jax.Array, jax.Array, jax.Array, PyTree]

    def goes_on(state: State) -> jax.Array:
        index, last, _, _ = state
        return (index < length) & (stop is None or jnp.any(last != stop))

    def add(state: State) -> State:
        index, last, texts, cache = state
        logits, cache = step(last[:, None], cache, count + index - 1)
        drawn = draw(jax.random.fold_in(key, index), logits[:, 0])
        if stop is not None:
            drawn = jnp.where(last == stop, stop, drawn)
        texts = jax.lax.dynamic_update_slice_in_dim(texts, drawn[:, None], index, axis=1)
        return index + 1, drawn, texts, cache

    return jax.lax.while_loop(goes_on, add, (jnp.int32(1), last, texts, cache))[2]
