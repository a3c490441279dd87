"""A Flax NNX model, which no stage makes: part of `experiments.bench.export`."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench.record import Row
from experiments.export import files, parity
from experiments.export.places import PLACES, installed
from experiments.runtimes.worker import Worker
from slim.export import TARGETS, passes, program

FLOAT = "float32"
EXAMPLES = 16


class Perceptron(nnx.Module):
    """Two layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Fresh."""
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.LayerNorm(128, rngs=rngs)
        self.second = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        logits: jax.Array = self.second(nnx.relu(self.norm(self.first(x))))
        return logits


def nnx_rows() -> list[Row]:
    """Its function and its state alone, in floats, for each target that runs."""
    definition, state = nnx.split(Perceptron(nnx.Rngs(0)))
    plain = nnx.to_pure_dict(state)

    def fn(values: Any, x: jax.Array) -> Any:
        nnx.replace_by_pure_dict(state, values)
        return nnx.merge(definition, state)(x)

    x = np.random.default_rng(0).normal(size=(EXAMPLES, 64)).astype(np.float32)
    expected = np.asarray(fn(plain, jnp.asarray(x)))
    rows = []
    for target in installed():
        of = TARGETS[target]
        runtime = PLACES[target].runtime
        if FLOAT not in of.precisions or runtime is None:
            continue
        made = passes.standard(program(fn, plain, x, batch="batch"))
        with tempfile.TemporaryDirectory() as scratch:
            path, _ = files.write_artefact(of.write(made), Path(scratch), of.suffix)
            with Worker(runtime, path, 1) as worker:
                found = worker.run({"input": x})["logits"]
        near = parity.compare(found, expected)
        limit = parity.LIMITS[FLOAT].error
        error = near.max_error / near.largest
        rows.append(Row(f"nnx, {target} {FLOAT}, error", error, goal=f"<= {limit:g}"))
    return rows
