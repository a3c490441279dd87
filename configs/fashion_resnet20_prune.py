r"""ResNet-20 on Fashion-MNIST, its channels cut to 30% of the parameters, against scratch.

    python -m experiments.main --config=configs/fashion_resnet20_prune.py \
        --workdir=runs/fashion_resnet20_prune

It took 65 minutes on 2 cores that other jobs shared. Expect 93.2% before, 92.6% after with 30% of
the parameters and a third of the MACs, and 91.2% from scratch (report in
`experiments/reports/fashion_resnet20_prune`).

Starts from the committed network. Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or
prepared by TFDS. `scratch` is the same small network, trained from new weights for as long.

Arguments: `smoke`, for a minute on a subset. With `--sweep`: scores at equal MACs over 3 seeds, in
one table (`experiments/reports/fashion_resnet20_scores`; 80 minutes on such a machine).
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe

SCORES = (
    "l1",
    "l2",
    "gradient_norm",
    "taylor",
    "layer_sensitive",
    "fisher",
    "norm_scale",
    "fpgm",
    "lamp",
    "wanda",
    "apoz",
    "random",
)


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    epochs = 1 if args.smoke else 4
    return recipe.config(
        name="fashion_resnet20_prune",
        data=data(args.smoke),
        model={"name": "resnet20"},
        stages=("load", "shrink", "finetune", "scratch", "evaluate"),
        load={"file": BASELINE},
        shrink={"keep_ratio": 0.3, "budget": "params", "score": "taylor", "min_width": 4},
        finetune={"epochs": epochs, "lr": 0.05},
        scratch={"kind": "train", "epochs": epochs, "lr": 0.1, "warmup_epochs": 0.5},
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Scores, at half of the MACs, each after a short recovery on a fifth of the images."""
    for score in SCORES:
        for seed in range(3):
            yield {
                "name": score,
                "seed": seed,
                "stages": ("load", "shrink", "finetune", "evaluate"),
                "data.train_split": "train[:20%]",
                "shrink.score": score,
                "shrink.budget": "macs",
                "shrink.keep_ratio": 0.5,
                "finetune.epochs": 1.0,
                "evaluate.latency_rounds": 5,
                "evaluate.attacks": (),
                "evaluate.corruptions": (),
            }
