"""The patterns; one is a line here and a function of JAX."""

from collections.abc import Mapping

from slim.export.patterns.activations import (
    GELU,
    GELU_TANH,
    HARD_SIGMOID,
    HARD_SWISH,
    RELU6,
    SILU,
)
from slim.export.patterns.norms import LAYER_NORM
from slim.export.patterns.pattern import Pattern
from slim.export.patterns.reductions import LOG_SOFTMAX, MEAN, SOFTMAX

PATTERNS: Mapping[str, Pattern] = {
    "layer_norm": LAYER_NORM,
    "log_softmax": LOG_SOFTMAX,
    "softmax": SOFTMAX,
    "gelu": GELU,
    "gelu_tanh": GELU_TANH,
    "silu": SILU,
    "hard_swish": HARD_SWISH,
    "hard_sigmoid": HARD_SIGMOID,
    "relu6": RELU6,
    "mean": MEAN,
}
"""By name; one that another has inside stands after it."""
