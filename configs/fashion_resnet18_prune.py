"""ResNet-18 on Fashion-MNIST, its channels cut from 44.6 MB to 13.4 MB, for an accelerator.

    python -m experiments.main --config=configs/fashion_resnet18_prune.py:subset \
        --workdir=runs/fashion_resnet18_prune

Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist`, or prepared by TFDS. In full (without
`:subset`) minutes on one GPU, a day on 2 cores; not yet run.

The subset on 2 busy cores took 70 minutes: 79.5% before, trained briefly as it is; 81.2% after,
with 13.3 MB of 44.7 MB and 0.28 of the latency at batch 32 (report in
`experiments/reports/fashion_resnet18_prune`). It says nothing of a network trained to the end.

Arguments: `subset`, full width on a twentieth of the images, tested on a fifth of the tests, for 2
cores; `smoke`, an eighth of the width for a minute.

He et al., 2016, https://arxiv.org/abs/1512.03385.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False, subset=False)
    full = not (args.smoke or args.subset)
    few = 1 if args.smoke else 4
    part = "train[:2%]" if args.smoke else "train[:5%]"
    tests = "test[:5%]" if args.smoke else "test[:20%]"
    return recipe.config(
        name="fashion_resnet18_prune",
        precision="bfloat16" if full else "float32",
        data={
            "name": "fashion_mnist",
            "batch_size": 128 if full else 64,
            "train_split": "train" if full else part,
            "eval_split": "test" if full else tests,
            "augment": [{"name": "flip"}, {"name": "pad_crop", "padding": 2}],
        },
        model={"name": "resnet18", "stem": "small", "width": 8 if args.smoke else 64},
        stages=("train", "shrink", "finetune", "evaluate"),
        train={
            "epochs": 30 if full else few,
            "lr": 0.1 if full else 0.05,
            "warmup_epochs": 2.0 if full else 0.3,
            "weight_decay": 5e-4,
        },
        shrink={"keep_ratio": 0.298, "budget": "bytes", "score": "taylor", "round_to": 8},
        finetune={"epochs": 15 if full else few, "lr": 0.05 if full else 0.03},
        evaluate={
            "batch_size": 32,
            "latency_rounds": 30 if full else 10,
            "robustness_images": 256 if full else 64,
        },
    )
