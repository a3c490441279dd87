r"""ResNet-20 on Fashion-MNIST in integers: after calibration alone, or trained at its bits.

    python -m experiments.main --config=configs/fashion_resnet20_quantize.py \
        --workdir=runs/fashion_resnet20_quantize

Starts from the committed network. Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or
prepared by TFDS.

Arguments: `smoke`, for a minute on a subset. With `--sweep`: INT8, W4A8 and W4A4, calibrated by
min-max, KL and MSE, and trained.
"""


from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe

BITS = {"int8": ("int8", "int8"), "w4a8": ("int4", "int8"), "w4a4": ("int4", "int4")}
CALIBRATIONS = {"minmax": ("minmax", "minmax"), "kl": ("mse", "kl"), "mse": ("mse", "mse")}
"""How ranges of weights and of activations are chosen."""


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="fashion_resnet20_quantize",
        data=data(args.smoke),
        model={"name": "resnet20"},
        stages=("load", "quantize", "evaluate"),
        load={"file": BASELINE},
        quantize={"lr": 0.005, "weight_decay": 1e-4},
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Bits, each after three calibrations and after training for one pass over half the images.

    The mixed ones have INT8 or INT4 weights at each site, at 60% of the bytes of INT8.
    """
    for bits, (weights, activations) in BITS.items():
        formats = {"quantize.weights": weights, "quantize.activations": activations}
        for name, (weight_range, observer) in CALIBRATIONS.items():
            ranges = {"quantize.weight_range": weight_range, "quantize.observer": observer}
            yield from _seeds(f"{bits}_{name}", {**formats, **ranges})
        yield from _seeds(f"{bits}_trained", {**formats, "quantize.epochs": 1.0})
    yield from _seeds("mixed_mse", {"quantize.mix": True})
    yield from _seeds("mixed_trained", {"quantize.mix": True, "quantize.epochs": 1.0})


def _seeds(name: str, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for seed in range(3):
        yield {
            "name": name,
            "seed": seed,
            "data.train_split": "train[:50%]",
            "evaluate.latency_rounds": 5,
            "evaluate.attacks": (),
            "evaluate.corruptions": (),
            **settings,
        }
