"""A config file for a decoder with experts, of seconds: all that lies over a mesh is in it."""

from ml_collections import ConfigDict

from experiments import recipe
from tests.experiments.jobs import DECODER


def get_config(text: str = "") -> ConfigDict:
    """Eight steps, with a checkpoint after every second one."""
    recipe.arguments(text)
    return recipe.config(
        name="tiny_language",
        data={
            "name": "random_tokens",
            "length": 16,
            "vocabulary": 300,
            "batch_size": 8,
            "eval_batch_size": 8,
            "train_split": "train[:64]",
            "eval_split": "validation[:16]",
        },
        model={**DECODER, "width": 32, "expert_hidden": 32, "expert_buffer": 0.0},
        mesh={"rules": ({"pattern": "*", "split": "deepseek"},)},
        stages=("train",),
        train={"epochs": 1.0, "lr": 0.1},
        run={"checkpoint_epochs": 0.25, "checkpoint_seconds": 0.0, "log_steps": 1},
    )
