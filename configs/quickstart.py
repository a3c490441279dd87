"""A first look: a small ResNet on scikit-learn's digits, trained, cut, fine-tuned and measured.

    python -m experiments.main --config=configs/quickstart.py --workdir=runs/quickstart

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
        model={"name": "resnet8"},
        stages=("train", "shrink", "finetune", "evaluate"),
        train={"epochs": 1 if args.smoke else 20, "warmup_epochs": 0.0 if args.smoke else 1.0},
        shrink={"keep_ratio": 0.4, "budget": "macs", "min_width": 4},
        finetune={"epochs": 1 if args.smoke else 15, "lr": 0.05},
        evaluate={"batch_size": 64},
    )
