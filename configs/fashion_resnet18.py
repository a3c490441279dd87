"""ResNet-18 with the stem for small images on Fashion-MNIST, for an accelerator.

    python -m experiments.main --config=configs/fashion_resnet18.py --workdir=runs/fashion_resnet18

Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or prepared by TFDS. Minutes on one
GPU, most of a day on 2 cores; not yet run in full, so no result is promised. The baseline should
reach what is published for ResNet-18 on this set, 94 to 95% (github.com/zalandoresearch/
fashion-mnist, "Benchmark").

Arguments: `smoke`, on a CPU, with an eighth of the width and a subset.

He et al., 2016, https://arxiv.org/abs/1512.03385.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="fashion_resnet18",
        precision="float32" if args.smoke else "bfloat16",
        data={
            "name": "fashion_mnist",
            "batch_size": 128,
            "train_split": "train[:2%]" if args.smoke else "train",
            "eval_split": "test[:5%]" if args.smoke else "test",
            "augment": [
                {"name": "flip"},
                {"name": "pad_crop", "padding": 2},
                {"name": "cutout", "size": 8},
            ],
        },
        model={"name": "resnet18", "stem": "small", "width": 8 if args.smoke else 64},
        stages=("train", "prune", "finetune", "evaluate"),
        train={
            "epochs": 1 if args.smoke else 30,
            "lr": 0.1,
            "warmup_epochs": 0.0 if args.smoke else 2.0,
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "ema": 0.999,
        },
        prune={"epochs": 1 if args.smoke else 10, "lr": 0.02, "keep_ratio": 0.2},
        finetune={"epochs": 1 if args.smoke else 5, "lr": 0.005},
    )
