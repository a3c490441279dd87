r"""A dense decoder taught by the one with experts that `configs/brown_moe.py` trains.

    python -m experiments.main --config=configs/brown_moe_distill.py \
        --workdir=runs/brown_moe_distill
    python -m experiments.main --config=configs/brown_moe_distill.py --sweep \
        --workdir=runs/brown_moe_distill

The student computes as much a token, with less than half of the parameters. It learns, in
three quarters of an epoch, from the teacher's predictions of each next token, KL(teacher ||
student), and from the token that came, half of each. On two cores three minutes.

Needs the trained model in `runs/brown_moe/experts.safetensors`; `configs/brown_moe.py` says how.
Arguments: `smoke`, for seconds: there the teacher is the student, trained before. With `--sweep`, 3
seeds each, with the teacher and without.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.brown_moe import FILE, TRAIN, shared
from experiments import recipe

TRAINING = {**TRAIN, "epochs": 0.75}


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="brown_moe_distill",
        stages=("train", "distill", "evaluate") if args.smoke else ("distill", "evaluate"),
        distill={
            "teacher": "train" if args.smoke else FILE,
            "mixture": 0.5,
            "temperature": 1.0,
            **TRAINING,
        },
        train=TRAINING,
        **shared(args.smoke, "deepseek_dense"),
    )


def sweep() -> Iterator[dict[str, Any]]:
    """The untaught student first: the taught is compared with it."""
    for name, stages in {"untaught": ("train",), "taught": ("distill",)}.items():
        for seed in range(3):
            yield {"name": name, "seed": seed, "stages": (*stages, "evaluate")}
