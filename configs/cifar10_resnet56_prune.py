"""ResNet-56 on CIFAR-10, its channels cut to 2.1 times fewer MACs, for an accelerator.

    python -m experiments.main --config=configs/cifar10_resnet56_prune.py \
        --workdir=runs/cifar10_resnet56

Needs CIFAR-10 prepared by TFDS: where TensorFlow is installed and the network reaches it, once
`tfds build cifar10`; training itself needs neither. In the workdir of `cifar10_resnet56` the
trained network is taken from there.

About two hours on one GPU; not yet run in full. The bar is Torch-Pruning's: 93.53% before, 93.77%
after, at 2.11 times fewer MACs (Fang et al., 2023, https://arxiv.org/abs/2301.12900, table 1).

Arguments: `smoke`, on a CPU, with a quarter of the width and a subset.
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet56
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    base = cifar10_resnet56.get_config(text)
    return recipe.config(
        name="cifar10_resnet56_prune",
        data=base.data,
        model=base.model,
        stages=("train", "shrink", "finetune", "evaluate"),
        train=base.train,
        shrink={"keep_ratio": 1 / 2.11, "budget": "macs", "score": "taylor", "batches": 50},
        finetune={"epochs": 1 if args.smoke else 100, "lr": 0.05},
    )
