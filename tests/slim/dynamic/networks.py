"""Networks with exits whose arithmetic is exact, so that batches of any size give the same bits."""

import functools

import jax.numpy as jnp
import numpy as np

from slim.graph import split_outputs, trace

DEPTH, WIDTH, CLASSES = 5, 4, 3


def whole(rng, *shape):
    """Small whole numbers in float32."""
    return rng.integers(-1, 2, shape).astype(np.float32)


@functools.cache
def network():
    """(function, parameters, inputs): tokens and a mask; each layer adds, and clips what it adds.

    The middle layers are alike; an example's logits depend on that example alone.
    """
    rng = np.random.default_rng(0)
    params = {
        "table": whole(rng, 7, WIDTH),
        "layers": [
            {"kernel": whole(rng, WIDTH, WIDTH), "exit": whole(rng, WIDTH, CLASSES) / 4}
            for _ in range(DEPTH)
        ],
    }
    ids = rng.integers(0, 7, (53, 6)).astype(np.int32)
    mask = np.arange(6) < rng.integers(1, 7, (53, 1))
    return function, params, (ids, mask)


def function(params, ids, mask):
    x, logits = params["table"][ids], []
    for layer in params["layers"]:
        kept = mask[..., None].astype(x.dtype)
        x = x + jnp.clip(x @ layer["kernel"], -2, 2) * kept
        logits.append((x * kept).sum(1) @ layer["exit"])
    return tuple(logits)


@functools.cache
def segments():
    fn, params, inputs = network()
    return split_outputs(trace(fn, params, *inputs))
