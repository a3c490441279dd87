"""Reference models in Flax Linen, each file reading like its paper, made by name.

Every model is called as `model.apply(variables, inputs, train=bool)` and gives float32 logits
`(batch, num_classes)`. Inputs are images `(batch, height, width, channels)` of floats; those of
`TEXT_MODELS` are token ids `(batch, length)` of int32, 0 where a text has ended. `LANGUAGE_MODELS`
take such ids too, all of them real, and give the next tokens' logits `(batch, length,
num_classes)`; `language_model` has their losses beside them. Parameters are float32; `dtype` is
what convolutions and matrix products compute in. BERT's other heads are in `slim.models.bert`.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.bert import TextClassification
from slim.models.language import LanguageModel, published
from slim.models.mlp import MLP
from slim.models.mobilenet_v2 import MobileNetV2
from slim.models.mobilenet_v3 import LARGE, SMALL, MobileNetV3
from slim.models.resnet import CifarResNet, ImageNetResNet
from slim.models.vit import ViT
from slim.paths import nearest

# What a name fixes is bound here; every field with a default that is left is an option of the name.
IMAGE_MODELS: Mapping[str, partial[Any]] = {
    "mlp": partial(MLP),
    **{f"resnet{d}": partial(CifarResNet, depth=d) for d in (8, 14, 20, 32, 44, 56, 110)},
    "resnet18": partial(ImageNetResNet, blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(ImageNetResNet, blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(ImageNetResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ImageNetResNet, blocks=(3, 4, 23, 3), bottleneck=True),
    "mobilenet_v2": partial(MobileNetV2),
    "mobilenet_v3_large": partial(MobileNetV3, rows=LARGE, last_width=1280),
    "mobilenet_v3_small": partial(MobileNetV3, rows=SMALL, last_width=1024),
    "vit_ti": partial(ViT, width=192, depth=12, heads=3),
    "vit_s": partial(ViT, width=384, depth=12, heads=6),
    "vit_b": partial(ViT, width=768, depth=12, heads=12),
}
TEXT_MODELS: Mapping[str, partial[Any]] = {
    "bert": partial(TextClassification),
}
LANGUAGE_MODELS: Mapping[str, partial[Any]] = {
    "deepseek": partial(LanguageModel, yarn=None, dense=False, merged=0),
    # Its options are those of the model with experts that computes as much a token.
    "deepseek_dense": partial(LanguageModel, yarn=None, dense=True, merged=0),
    "deepseek_v3": partial(LanguageModel, dense=False, **published("v3")),
    "deepseek_v2_lite": partial(LanguageModel, dense=False, **published("v2_lite")),
}
MODELS: Mapping[str, partial[Any]] = {**IMAGE_MODELS, **TEXT_MODELS, **LANGUAGE_MODELS}


def options(name: str) -> dict[str, Any]:
    """The options of the model `name` with their defaults, whose types are the options' types.

    Raises:
        ValueError: no model has that name.

    >>> options("resnet20")
    {'width': 16, 'shortcut': 'pad'}
    """
    model = _lookup("model", name, MODELS)
    return {
        field.name: field.default
        for field in dataclasses.fields(model.func)
        if field.init
        and field.name not in ("parent", "name", "dtype", "num_classes", *model.keywords)
    }


def create(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **chosen: Any
) -> nn.Module:
    """The model `name`, not yet initialized; costs nothing, so it also checks a configuration.

    Args:
        name: a key of `MODELS`.
        num_classes: the width of the logits.
        dtype: what is computed in; parameters are float32 whatever it is.
        **chosen: some of `options(name)`.

    Raises:
        ValueError: an unknown name or option, or a value of the wrong type or out of range.

    >>> create("resnet20", num_classes=10, width=8).width
    8
    """
    made = _made(name, num_classes, dtype, chosen)
    return made.decoder() if isinstance(made, LanguageModel) else made


def language_model(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **chosen: Any
) -> LanguageModel:
    """The model `name` of `LANGUAGE_MODELS` with what it is trained by; arguments as of `create`.

    Raises:
        ValueError: as `create`; or it is no model of language.

    >>> language_model("deepseek", num_classes=256, bias_rate=0.0, z_weight=1e-3).loss_weights
    {'z': 0.001}
    """
    _lookup("model of language", name, LANGUAGE_MODELS)
    made: LanguageModel = _made(name, num_classes, dtype, chosen)
    return made


def _made(name: str, num_classes: int, dtype: DTypeLike, chosen: dict[str, Any]) -> Any:
    """What the table's entry makes of options, which are checked."""
    model = _lookup("model", name, MODELS)
    defaults = options(name)
    least = {each.name: each.metadata.get("least", 1) for each in dataclasses.fields(model.func)}
    if num_classes < 1:
        raise ValueError(f"num_classes = {num_classes} must be at least 1")
    for option, value in chosen.items():
        kind = type(_lookup(f"option of model {name!r}", option, defaults))
        if not _fits(value, kind):
            raise ValueError(
                f"option {option} = {value!r} of model {name!r} must be a {kind.__name__}, "
                f"as its default {defaults[option]!r}"
            )
        if kind is int and value < least[option]:
            raise ValueError(
                f"option {option} = {value} of model {name!r} must be at least {least[option]}"
            )
        chosen[option] = kind(value)
    return model(num_classes=num_classes, dtype=dtype, **chosen)


def _fits(value: Any, kind: type) -> bool:
    """Whether a configuration's value will do for the type: an int as a float, a list as a tuple.

    Nothing is taken for a number because it is a bool.
    """
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, {float: (int, float), tuple: (list, tuple)}.get(kind, kind))


def _lookup(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or a ValueError that names what is allowed and what is nearest."""
    if name in table:
        return table[name]
    near = nearest(name, table)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what}: {name!r}{hint} Allowed: {', '.join(table) or 'none'}")
