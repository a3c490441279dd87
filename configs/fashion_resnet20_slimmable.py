r"""ResNet-20 on Fashion-MNIST in three sizes with one set of weights, chosen by the load.

    python -m experiments.main --config=configs/fashion_resnet20_slimmable.py \
        --workdir=runs/fashion_resnet20_slimmable

The committed network, the same with half of its channels (26% of the MACs; other widths are no
faster on a CPU), and that without three of its residual blocks, trained at once by the sandwich
rule on a part of the images; `adaptive` measures each, then serves one stream of images whose rate
rises beyond what the whole network can do, and falls again: by the variant that is in time, by the
whole network and by the smallest. Run it on a machine that does nothing else. Needs Fashion-MNIST:
`apt-get install dataset-fashion-mnist`, or prepared by TFDS.

Arguments: `smoke`, for a minute on a subset.

Yu and Huang, 2019, https://arxiv.org/abs/1903.05134.
"""

from ml_collections import ConfigDict

from configs.fashion_resnet20 import BASELINE, data
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="fashion_resnet20_slimmable",
        data={**data(args.smoke), "train_split": "train[:1%]" if args.smoke else "train[:30%]"},
        model={"name": "resnet20"},
        stages=("load", "slimmable", "evaluate", "adaptive"),
        load={"file": BASELINE},
        slimmable={
            "keep_ratios": (1.0, 0.26, 0.26),
            "drops": (0, 0, 3),
            "round_to": 8,
            "epochs": 1.0 if args.smoke else 3.0,
            "lr": 0.05,
        },
        evaluate={"latency_rounds": 5, "attacks": (), "corruptions": ()},
        adaptive={"phase_seconds": 0.5 if args.smoke else 5.0},
    )
