"""StableHLO artefacts in JAX, on whatever devices it has."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtimes.runtime import Runtime


class StableHloSession:
    """A loaded function of arrays."""

    def __init__(
        self, call: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """The function, and what its arguments and results are called."""
        self._call, self._inputs, self._outputs = call, inputs, outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        results = self._call(*(inputs[name] for name in self._inputs))
        return dict(zip(self._outputs, map(np.asarray, results), strict=True))


def load(path: Path, threads: int) -> StableHloSession:
    """The folder of an artefact; XLA takes the cores that its process may use as its threads."""
    del threads
    from slim.export import stablehlo

    described = json.loads((path / stablehlo.METADATA).read_text())
    return StableHloSession(stablehlo.load(path), described["inputs"], described["outputs"])


RUNTIME = Runtime("jax", "jax", load)
