"""The `model` section of a recipe: checked, and made a network."""

from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from experiments import mesh as meshes
from experiments.data.info import IMAGE, LANGUAGE, TEXT, DataInfo, Modality
from experiments.network import Network
from experiments.precision import Precision
from experiments.schema import ConfigError
from slim import models
from slim.models.deepseek import Layout
from slim.models.language import LanguageModel
from slim.moe.parallel import expert_parallel


def unpack(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The `model` section as a name of `slim.models` and its options."""
    options = {key: value for key, value in config.items() if key != "name"}
    return config["name"], options


def check(config: dict[str, Any], modality: Modality) -> None:
    """Refuse a `model` section that names no model for the data or has wrong options.

    Raises:
        ConfigError: naming what is wrong and what is allowed.
    """
    if "name" not in config:
        raise ConfigError(f"model.name: required; one of {', '.join(models.MODELS)}")
    name, options = unpack(config)
    try:
        models.create(name, num_classes=1, **options)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
    fitting = {
        IMAGE: models.IMAGE_MODELS,
        TEXT: models.TEXT_MODELS,
        LANGUAGE: models.LANGUAGE_MODELS,
    }[modality]
    if name not in fitting:
        raise ConfigError(
            f"model.name = {name!r} does not read what an example of the data is, {modality.noun}; "
            f"choose one of {', '.join(fitting)}"
        )


def network(
    config: dict[str, Any], info: DataInfo, precision: Precision, mesh: Mesh | None = None
) -> Network:
    """The network of a `model` section for a data set.

    Args:
        config: the section.
        info: of the data.
        precision: of storage and computing.
        mesh: the devices that activations of language lie on, and that experts are divided over
            where its axis `expert` has several.

    Raises:
        ConfigError: the options do not go with such a mesh.
    """
    name, options = unpack(config)
    made: LanguageModel | None = None
    module: nn.Module
    if info.modality == LANGUAGE:
        made = models.language_model(
            name, num_classes=info.num_classes, dtype=precision.compute, **options
        )
        mix = None
        if mesh is not None and mesh.shape["expert"] > 1 and made.config.sparse_layers:
            room = made.expert_buffer or None
            mix = expert_parallel(mesh, buffer_factor=room, parts=made.expert_parts)
        layout = None if mesh is None or mesh.size == 1 else Layout(mesh, meshes.BATCH_AXES)
        try:
            module = made.decoder(mix, layout)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
    else:
        module = models.create(
            name, num_classes=info.num_classes, dtype=precision.compute, **options
        )
    return Network(
        module,
        info.input_shape,
        info.mean,
        info.std,
        precision.storage,
        info.modality,
        language=made,
    )
