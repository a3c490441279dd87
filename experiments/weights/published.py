"""The published weights that can be loaded by name; a new file here has its place in `WEIGHTS`."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.weights import mobilenet_v2

WEIGHTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "mobilenet_v2": mobilenet_v2.load,
}
"""Loaders of all variables of a model, by a name of `slim.models`."""
