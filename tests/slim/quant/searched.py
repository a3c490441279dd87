"""Small models to search formats for: one with a convolution, one with a stack that is scanned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.graph import trace
from slim.quant import Activations, Option, Policy, Rule, Weights, assign, calibrate, store
from slim.quant.stored import SITES

CLASSES = 5
FORMATS = ("int4", "int8")
ACTIVATIONS = Activations()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def image_model(p, x):
    x = jax.lax.conv_general_dilated(
        x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x).mean((1, 2))
    return jax.nn.relu(x @ p["hidden"]) @ p["head"] + p["bias"]


def scan_model(p, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ p["stem"], p["stack"])
    return x @ p["head"]


def image_case():
    params = {
        "conv": normal(1, 3, 3, 2, 8) / 3,
        "hidden": normal(2, 8, 6),
        "head": normal(3, 6, CLASSES),
        "bias": normal(4, CLASSES),
    }
    return image_model, params, normal(5, 6, 4, 4, 2)


def scan_case():
    params = {
        "stem": normal(1, 4, 6),
        "stack": normal(2, 3, 6, 6) / 2,
        "head": normal(3, 6, CLASSES),
    }
    return scan_model, params, normal(4, 6, 4)


CASES = {"image": image_case, "scan": scan_case}


@functools.cache
def searched(case, activations=ACTIVATIONS, granularity="channel", symmetric=True):
    """The graph, parameters, input and options of a case."""
    fn, params, x = CASES[case]()
    graph = trace(fn, params, x)
    options = {}
    for format in FORMATS:
        weights = Weights(format, granularity, symmetric=symmetric)
        sites = assign(graph, Policy((Rule("*", weights, activations),), edges=None))
        options[format] = Option(sites, calibrate(graph, sites, params, [(x,)]))
    return graph, params, x, options


def stored_bytes(quantized):
    """Of each site's weights, as they are stored: packed values, scales and zero points."""
    stored = paths.flatten(store(quantized)[SITES])
    return {
        name: sum(a.nbytes for path, a in stored.items() if path.startswith(f"{name}/weights/"))
        for name in quantized.sites
    }
