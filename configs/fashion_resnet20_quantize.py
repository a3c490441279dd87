r"""ResNet-20 on Fashion-MNIST in integers: after calibration alone, or trained at its bits.

    python -m experiments.main --config=configs/fashion_resnet20_quantize.py \
        --workdir=runs/fashion_resnet20_quantize

Starts from the committed network. Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or
prepared by TFDS.

Arguments: `smoke`, for a minute on a subset. With `--sweep`: INT8, W4A8 and W4A4, calibrated by
min-max, KL and MSE, and trained.
"""


from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe

BITS = {"int8": ("int8", "int8"), "w4a8": ("int4", "int8"), "w4a4": ("int4", "int4")}


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
