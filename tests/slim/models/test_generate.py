"""Generation with a decoder that is a table, and with a real one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models.deepseek import DeepSeek, decode, deepseek_config, empty_cache
from slim.models.deepseek.count import shapes
from slim.models.generate import generate, greedy, sampler
from tests.slim.graph.exactness import random_like

TABLE = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
KEY = jax.random.key(0)


def step(ids, cache, position):
    """The next token's logits are a row of the table by the sum of all tokens so far.

    The cache is the sum, and the position that is expected.
    """
    so_far = cache["sum"][:, None] + jnp.cumsum(ids, axis=1)
    wrong = jnp.where(position == cache["position"], 0.0, jnp.nan)
    cache = {"sum": so_far[:, -1], "position": position + ids.shape[1]}
    return jnp.asarray(TABLE)[so_far % 7] + wrong, cache


def empty(batch):
    return {"sum": jnp.zeros(batch, jnp.int32), "position": jnp.int32(0)}


def by_hand(prompt, length, stop=None):
    text = list(prompt)
    for _ in range(length):
        ended = stop is not None and len(text) > len(prompt) and text[-1] == stop
        text.append(stop if ended else int(TABLE[sum(text) % 7].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("stop", [None, 1, 3])
def test_the_likeliest_tokens_are_those_found_one_by_one(stop):
    prompt = np.arange(15, dtype=np.int32).reshape(5, 3) % 7
    found = jax.jit(partial(generate, step, length=8, stop=stop))(empty(5), prompt, KEY)
    assert found.tolist() == [by_hand(text, 8, stop) for text in prompt.tolist()]


def test_a_real_decoder_goes_on_as_its_whole_form_says():
    config = replace(deepseek_config("tiny").dense(), depth=1, dense_layers=1, predict_ahead=0)
    model = DeepSeek(config)
    prompt = jnp.array([[5, 250, 17]], jnp.int32)
    variables = random_like(shapes(config))
    found = jax.jit(partial(generate, partial(decode, model, variables), length=4))(
        empty_cache(config, 1, 7), prompt, KEY
    )
    text = jnp.concatenate([prompt, found], axis=1)
    logits = model.apply(variables, text, train=False)
    assert jnp.argmax(logits[:, 2:-1], axis=-1).tolist() == found.tolist()


def test_what_is_drawn_follows_the_probabilities_that_are_left():
    logits = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
    keys = jax.random.split(KEY, 4000)

    def shares(draw):
        tokens = jax.vmap(lambda key: draw(key, logits[None])[0])(keys)
        return np.bincount(tokens, minlength=4) / 4000

    np.testing.assert_allclose(shares(sampler()), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    np.testing.assert_allclose(shares(sampler(top_k=2)), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(shares(sampler(top_p=0.69)), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(shares(sampler(top_p=0.71)), [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    np.testing.assert_allclose(
        shares(sampler(0.5)), np.square([0.1, 0.4, 0.2, 0.3]) / 0.3, atol=0.03
    )
    assert shares(sampler(0.01))[1] == shares(greedy)[1] == shares(sampler(top_k=1))[1] == 1


def test_what_cannot_be_is_named():
    for wrong, message in {
        "temperature": "temperature = 0 must be above 0; or draw by `greedy`",
        "top_p": r"top_p = 0 must be in \(0, 1\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            sampler(**{wrong: 0})
    with pytest.raises(ValueError, match="top_k = -1"):
        sampler(top_k=-1)
    with pytest.raises(ValueError, match="prompts of 0 tokens"):
        generate(step, empty(1), jnp.zeros((1, 0), jnp.int32), KEY, length=1)
