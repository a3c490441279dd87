"""The published weights that can be loaded by name; a new file here has its place in `WEIGHTS`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.weights import minilm, mobilenet_v2


class Published(NamedTuple):
    """Weights of the table.

    Attributes:
        load: gives the variables of a model of `slim.models`.
        fresh: modules of that model that are not among them: whoever loads them begins these anew.
    """

    load: Callable[[], dict[str, Any]]
    fresh: tuple[str, ...] = ()


WEIGHTS: Mapping[str, Published] = {
    "mobilenet_v2": Published(mobilenet_v2.load),
    # The package has a pooler too, but one that was never trained: its bias is 0.
    "minilm": Published(minilm.load, fresh=("pooler", "classifier")),
}
