"""What JAX makes of a Program."""

import jax
import numpy as np

from slim.export.program import Program


def evaluated(program: Program, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs by name."""
    results = jax.jit(program)(*inputs)
    names = [name for name, _ in program.outputs]
    return {name: np.asarray(each) for name, each in zip(names, results, strict=True)}
