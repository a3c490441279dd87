r"""ResNet-20 on Fashion-MNIST, cut to a quarter of its multiply-adds, in integers, and exported.

python -m experiments.main --config=configs/fashion_resnet20_fast.py \
        --workdir=runs/fashion_resnet20_fast
"""

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="fashion_resnet20_fast",
        data=data(args.smoke),
        model={"name": "resnet20"},
        stages=("load", "shrink", "finetune", "quantize", "evaluate", "export"),
        load={"file": BASELINE},
        shrink={
            "keep_ratio": 0.25,
            "budget": "macs",
            "score": "taylor",
            "round_to": 8,
            "min_width": 8,
        },
        finetune={"epochs": 1 if args.smoke else 6, "lr": 0.05},
        quantize={"lr": 0.005, "weight_decay": 1e-4},
        evaluate={"attacks": (), "corruptions": (), "latency_rounds": 2 if args.smoke else 10},
        export={
            "targets": ("litert",),
            "examples": 100 if args.smoke else 10_000,
            "latency_rounds": 2 if args.smoke else 30,
        },
    )
