"""Takes a trained network from a file instead of training it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.schema import ConfigError, Schema
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.weights import safetensors_store
from slim import paths


class LoadConfig(Schema):
    """Where the network lies.

    Attributes:
        file: a safetensors file with all variables of the recipe's model.
    """

    file: str


def run(context: Context, config: LoadConfig, model: Model | None) -> Result:
    """Reads the file and checks it against the recipe's model.

    Raises:
        ConfigError: there is no such file, or its variables are not those of the model.
    """
    if not Path(config.file).exists():
        raise ConfigError(f"{context.name}.file = {config.file!r}: no such file")
    variables, _ = safetensors_store.load(Path(config.file))
    expected = context.network.abstract()
    check_same(expected, variables, f"{context.name}.file = {config.file!r}")
    return Result(
        Model(jax.tree.map(lambda e, v: jnp.asarray(v, e.dtype), expected, dict(variables)))
    )


def check_same(expected: Any, found: Any, what: str) -> None:
    """Refuses variables of other names or shapes, naming the first difference.

    Raises:
        ConfigError: see above.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(expected).items()}
    others = {path: tuple(leaf.shape) for path, leaf in paths.flatten(found).items()}
    for path in sorted(shapes.keys() | others.keys()):
        if shapes.get(path) != others.get(path):
            raise ConfigError(
                f"{what}: {path} has shape {others.get(path, 'none: it is missing')}, and "
                f"{shapes.get(path, 'none: it has no such variable')} in the recipe's model; "
                "set model and data.num_classes as they were when the file was made"
            )


STAGE = Stage(LoadConfig, run, needs_model=False)
