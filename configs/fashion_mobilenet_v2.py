r"""MobileNetV2 on Fashion-MNIST, half of its multiply-adds cut, in integers, and exported.

python -m experiments.main --config=configs/fashion_mobilenet_v2.py \
        --workdir=runs/fashion_mobilenet_v2
"""

from ml_collections import ConfigDict

from configs.fashion_resnet20 import data
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    epochs = 1 if args.smoke else 4
    return recipe.config(
        name="fashion_mobilenet_v2",
        data=data(args.smoke),
        model={"name": "mobilenet_v2"},
        stages=("train", "shrink", "finetune", "quantize", "evaluate", "export"),
        train={"epochs": epochs, "lr": 0.1, "warmup_epochs": 0.5, "weight_decay": 1e-4},
        shrink={"keep_ratio": 0.4, "budget": "macs", "score": "taylor", "round_to": 8},
        finetune={"epochs": epochs, "lr": 0.05},
        quantize={},
        evaluate={"attacks": (), "corruptions": (), "latency_rounds": 2 if args.smoke else 10},
        export={
            "targets": ("litert", "onnx"),
            "examples": 100 if args.smoke else 10_000,
            "latency_rounds": 2 if args.smoke else 30,
        },
    )
