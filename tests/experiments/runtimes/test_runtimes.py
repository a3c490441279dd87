"""Artefacts run in their runtimes give what the program gives."""

import jax.numpy as jnp
import numpy as np

from experiments.export import files
from experiments.runtimes import RUNTIMES
from slim.export import program, stablehlo

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_stablehlo_folder_runs_in_jax(tmp_path):
    made = program(lambda w, x: jnp.tanh(x @ w), np.ones((3, 2), np.float32) / 7, X)
    with files.folders(tmp_path, ("stablehlo",)) as partial:
        files.write(stablehlo.write(made), partial["stablehlo"])
    found = RUNTIMES["jax"].load(tmp_path / "stablehlo", 1).run({"input": X})
    np.testing.assert_allclose(found["logits"], np.tanh(X @ np.ones((3, 2)) / 7), rtol=1e-5)
