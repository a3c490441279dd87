"""A config file for runs of seconds as processes of their own: all that has state is in it."""

from ml_collections import ConfigDict

from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """45 steps of training and 22 of pruning, with a checkpoint after every second step."""
    recipe.arguments(text)
    return recipe.config(
        name="tiny",
        data={"name": "digits", "batch_size": 64, "augment": [{"name": "pad_crop", "padding": 1}]},
        model={"name": "mlp", "hidden": (128,), "dropout": 0.1},
        stages=("train", "prune"),
        train={"epochs": 2.0, "lr": 0.05, "ema": 0.9},
        prune={"epochs": 1.0, "lr": 0.02, "keep_ratio": 0.2, "optimizer": "adamw"},
        run={"checkpoint_epochs": 0.1, "checkpoint_seconds": 0.0, "log_steps": 1},
    )
