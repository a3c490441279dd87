"""Takes a trained network from a file or a package instead of training it."""

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import pydantic

from experiments import cuts
from experiments.cuts import Cut
from experiments.network import Variables
from experiments.schema import ConfigError, Schema, one_of
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.weights import hugging_face, safetensors_store
from experiments.weights.published import WEIGHTS, Published
from slim import paths
from slim.models.bert import SequenceClassification, TextClassification, bert_config


class LoadConfig(Schema):
    """Where the network lies: one of the two.

    Attributes:
        file: a safetensors file with all variables of the recipe's model; or a BERT's checkpoint
            as Hugging Face names it, a file or its folder, whose pooler and classifier are fresh,
            from the seed, if it has none.
        weights: published weights that come in a package; of `experiments.weights.published`. What
            they lack for the recipe's model, such as a classifier, is fresh, from the seed.
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
    """Reads the network and checks it against the recipe's model, cut as the file says.

    Raises:
        ConfigError: there is no such file, the package is not installed, or the variables are not
            those of the model.
    """
    plans: tuple[Cut, ...] = ()
    if config.weights is not None:
        what = f"{context.name}.weights = {config.weights!r}"
        try:
            variables = _published(context, WEIGHTS[config.weights])
        except FileNotFoundError as error:
            raise ConfigError(f"{what}: {error}") from None
    else:
        assert config.file is not None
        what = f"{context.name}.file = {config.file!r}"
        if not Path(config.file).exists():
            raise ConfigError(f"{what}: no such file")
        if safetensors_store.is_ours(config.file):
            variables, metadata = safetensors_store.load(config.file)
            plans = tuple(map(cuts.from_json, metadata.get("plans", ())))
        else:
            try:
                variables = _hugging_face(context, config.file)
            except (FileNotFoundError, ValueError) as error:
                raise ConfigError(f"{what}: {error}") from None
    expected = context.network.shrunk(plans).abstract()
    check_same(expected, variables, what)
    loaded = jax.tree.map(lambda e, v: jnp.asarray(v, e.dtype), expected, dict(variables))
    return Result(Model(loaded, plans=plans))


def _published(context: Context, weights: Published) -> Variables:
    """All variables of the recipe's model, as far as the weights are for it."""
    return _completed(context, weights.load(), weights.fresh)


def _hugging_face(context: Context, checkpoint: str) -> Variables:
    """All variables of the recipe's model, a BERT, from Hugging Face's tensors.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: it is damaged, or of another model.
    """
    tensors, module = hugging_face.read(checkpoint), context.network.module
    if not isinstance(module, TextClassification):
        raise ValueError("not written by experiments.weights.keep, and the recipe's model no BERT")
    whole = SequenceClassification(bert_config(module.size), num_classes=module.num_classes)
    fresh = ("pooler", "classifier")
    return _completed(context, hugging_face.convert(tensors, whole, fresh), fresh)


def _completed(context: Context, variables: Variables, fresh: tuple[str, ...]) -> Variables:
    """With what they lack of the modules `fresh` of the recipe's model, from the seed."""
    params = variables["params"]
    if not (lacking := [name for name in fresh if name not in params]):
        return variables
    begun = jax.jit(context.network.init)(jax.random.key(context.seed))["params"]
    added = {name: begun[name] for name in lacking if name in begun}
    return {**variables, "params": {**params, **added}}


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


STAGE = Stage(LoadConfig, run, needs_model=False, needs_floats=False, of_language=True)
