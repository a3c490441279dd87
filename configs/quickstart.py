"""A first look: a small ResNet on scikit-learn's digits, trained, pruned, fine-tuned, measured.

    python -m experiments.main --config=configs/quickstart.py --workdir=runs/quickstart

Arguments: `smoke` for a run of seconds.
"""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    epochs = 1 if args.smoke else 15
    return recipe.config(
        name="quickstart",
        data={"name": "digits", "batch_size": 64, "augment": [{"name": "pad_crop", "padding": 1}]},
        model={"name": "resnet8", "width": 16},
        stages=("train", "prune", "finetune", "evaluate"),
        train={"epochs": epochs, "lr": 0.1, "warmup_epochs": 1.0},
        prune={"epochs": epochs, "lr": 0.02, "keep_ratio": 0.2},
        finetune={"epochs": epochs / 3, "lr": 0.005},
        evaluate={"batch_size": 64},
    )
