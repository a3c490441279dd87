r"""The quickstart's network cut in rounds: 90% of its MACs, then 5 points less each, to 40%.

    python -m experiments.main --config=configs/quickstart_progressive.py \
        --workdir=runs/quickstart_progressive

Each round cuts channels by Taylor scores and fine-tunes what is left for two epochs. About two
minutes on 2 cores, most of it compiling. Expect 97.8% before the first round and after the last,
with 37% of the multiply-adds and 34% of the parameters (1.14 MiB to 393 KiB), and no less than
96.6% on the way.

Arguments: `smoke`, for two rounds of seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import recipe

ROUNDS = range(90, 35, -5)


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    stages: dict[str, dict[str, Any]] = {
        "train": {"epochs": 1 if args.smoke else 20, "warmup_epochs": 0.0 if args.smoke else 1.0}
    }
    left = 100
    for percent in ROUNDS[:2] if args.smoke else ROUNDS:
        # A share of what the round before has left.
        stages[f"shrink_{percent}"] = {"kind": "shrink", "keep_ratio": percent / left}
        stages[f"finetune_{percent}"] = {"kind": "finetune", "epochs": 2.0, "lr": 0.05}
        left = percent
    return recipe.config(
        name="quickstart_progressive",
        data={"name": "digits", "batch_size": 64, "augment": [{"name": "pad_crop", "padding": 1}]},
        model={"name": "resnet8", "width": 32},
        stages=(*stages, "evaluate"),
        **stages,
        evaluate={"batch_size": 64, "attacks": (), "corruptions": ()},
    )
