"""Takes a trained network from a file or a package instead of training it."""

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import pydantic

from experiments.schema import ConfigError, Schema, one_of
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.weights import safetensors_store
from experiments.weights.published import WEIGHTS
from slim import paths


class LoadConfig(Schema):
    """Where the network lies: one of the two.

    Attributes:
        file: a safetensors file with all variables of the recipe's model.
        weights: published weights that come in a package; of `experiments.weights.published`.
    """

    file: str | None = None
    weights: Annotated[str, one_of(WEIGHTS)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> "LoadConfig":
        if (self.file is None) == (self.weights is None):
            raise ValueError(
                f"file = {self.file!r} and weights = {self.weights!r}: give one, and not both"
            )
        return self


def run(context: Context, config: LoadConfig, model: Model | None) -> Result:
    """Reads the network and checks it against the recipe's model.

    Raises:
        ConfigError: there is no such file, the package is not installed, or the variables are not
            those of the model.
    """
    if config.weights is not None:
        what = f"{context.name}.weights = {config.weights!r}"
        try:
            variables = WEIGHTS[config.weights]()
        except FileNotFoundError as error:
            raise ConfigError(f"{what}: {error}") from None
    else:
        assert config.file is not None
        what = f"{context.name}.file = {config.file!r}"
        if not Path(config.file).exists():
            raise ConfigError(f"{what}: no such file")
        variables, _ = safetensors_store.load(Path(config.file))
    expected = context.network.abstract()
    check_same(expected, variables, what)
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
                "set model and data.num_classes as they were when the network was made"
            )


STAGE = Stage(LoadConfig, run, needs_model=False, needs_floats=False)
