"""ResNet-20 on Fashion-MNIST: trained, pruned to 20% of its weights, fine-tuned, measured.

    python -m experiments.main --config=configs/fashion_resnet20.py --workdir=runs/fashion_resnet20

Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or prepared by TFDS. About 30 minutes
on 2 cores. Expect 93.2%, and 93.1% with a fifth of the weights (report in
`experiments/reports/fashion_resnet20`).

Arguments: `smoke`, for a minute on a subset; `baseline`, to start from the committed network
instead of training it. With `--sweep`: keep ratios, from one baseline, in one table.

He et al., 2016, https://arxiv.org/abs/1512.03385; Zhu and Gupta, 2017,
https://arxiv.org/abs/1710.01878.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments import recipe

BASELINE = "experiments/baselines/fashion_resnet20.safetensors"


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False, baseline=False)
    first = {"load": {"file": BASELINE}} if args.baseline else {"train": _train(args.smoke)}
    return recipe.config(
        name="fashion_resnet20",
        data=data(args.smoke),
        model={"name": "resnet20"},
        stages=(*first, "prune", "finetune", "evaluate"),
        **first,
        prune={"epochs": 1 if args.smoke else 2, "lr": 0.02, "keep_ratio": 0.2},
        finetune={"epochs": 1.0, "lr": 0.01},
    )


def data(smoke: bool) -> dict[str, Any]:
    """Fashion-MNIST, or a small part of it."""
    return {
        "name": "fashion_mnist",
        "batch_size": 128,
        "train_split": "train[:2%]" if smoke else "train",
        "eval_split": "test[:5%]" if smoke else "test",
        "augment": [{"name": "flip"}, {"name": "pad_crop", "padding": 2}],
    }


def _train(smoke: bool) -> dict[str, Any]:
    return {
        "epochs": 1 if smoke else 8,
        "lr": 0.1,
        "warmup_epochs": 0.5,
        "weight_decay": 5e-4,
    }


def sweep() -> Iterator[dict[str, Any]]:
    """Keep ratios, from one baseline."""
    for keep_ratio in (0.5, 0.2, 0.1, 0.05):
        yield {"name": f"keep_{keep_ratio:g}", "prune.keep_ratio": keep_ratio}
