"""ResNet-56 on CIFAR-10, for an accelerator.

    python -m experiments.main --config=configs/cifar10_resnet56.py --workdir=runs/cifar10_resnet56

Needs CIFAR-10 prepared by TFDS: where TensorFlow is installed and the network reaches it, once
`tfds build cifar10`; training itself needs neither.

Arguments: `smoke`, on a CPU, with a quarter of the width and a subset.

About an hour on one GPU; not yet run in full. Expect the paper's 93.03% of the baseline (6.97%
error, 164 epochs of batch 128): He et al., 2016, https://arxiv.org/abs/1512.03385, table 6.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="cifar10_resnet56",
        data={
            "name": "cifar10",
            "batch_size": 128,
            "train_split": "train[:2%]" if args.smoke else "train",
            "eval_split": "test[:5%]" if args.smoke else "test",
            "augment": [{"name": "flip"}, {"name": "pad_crop", "padding": 4}],
        },
        model={"name": "resnet56", "width": 4 if args.smoke else 16},
        stages=("train", "prune", "finetune", "evaluate"),
        train={
            "epochs": 1 if args.smoke else 164,
            "lr": 0.1,
            "schedule": "steps",
            "weight_decay": 1e-4,
        },
        prune={"epochs": 1 if args.smoke else 40, "lr": 0.02, "keep_ratio": 0.2},
        finetune={"epochs": 1 if args.smoke else 10, "lr": 0.005},
    )
