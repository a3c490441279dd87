"""A first look: a small ResNet on scikit-learn's digits, trained, cut, fine-tuned and measured.

    python -m experiments.main --config=configs/quickstart.py --workdir=runs/quickstart

About a minute on 2 cores. Expect 97.8% before and after, with a quarter of the parameters and
multiply-adds, and 0.2 of the latency at batch 64 (`experiments/reports/quickstart`).

Arguments: `smoke`, for a run of seconds.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="quickstart",
        data={"name": "digits", "batch_size": 64, "augment": [{"name": "pad_crop", "padding": 1}]},
        model={"name": "resnet8", "width": 32},
        stages=("train", "shrink", "finetune", "evaluate"),
        train={"epochs": 1 if args.smoke else 20, "warmup_epochs": 0.0 if args.smoke else 1.0},
        shrink={"keep_ratio": 0.3, "budget": "macs", "round_to": 8},
        finetune={"epochs": 1 if args.smoke else 15, "lr": 0.05},
        evaluate={"batch_size": 64},
    )
