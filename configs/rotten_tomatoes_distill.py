r"""Three and two layers of MiniLM taught by its six, on Rotten Tomatoes, beside the same untaught.

    python -m experiments.main --config=configs/rotten_tomatoes_minilm.py \
        --workdir=runs/rotten_tomatoes_minilm
    python -m experiments.weights.keep --run=runs/rotten_tomatoes_minilm --stage=finetune \
        --file=runs/rotten_tomatoes_minilm/teacher.safetensors
    python -m experiments.main --config=configs/rotten_tomatoes_distill.py --sweep \
        --workdir=runs/rotten_tomatoes_distill

A student starts as every second or third layer of MiniLM as it was published (TinyBERT's map: its
layer m is the teacher's floor(6 m / M)), with a fresh classifier. First it learns the fine-tuned
MiniLM's embeddings, attention scores and hidden states, layer by layer, without a label; then its
predictions. The students without a teacher start alike, and are trained on the labels for as many
steps. 3 layers: 82.7 ± 0.6% taught, 80.6 ± 0.3% untaught; 2 layers: 80.9 ± 0.4% and 78.4 ± 0.8%;
the teacher 83.8% (`experiments/reports/rotten_tomatoes_distill`). An hour on 2 cores.

Jiao et al., TinyBERT, 2020, https://arxiv.org/abs/1909.10351.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments import recipe

TEACHER = "runs/rotten_tomatoes_minilm/teacher.safetensors"
LEAVE_OUT = {3: (0, 2, 4), 2: (0, 1, 3, 4)}
OPTIMIZER = {"optimizer": "adamw", "schedule": "linear", "weight_decay": 0.01, "clip_norm": 1.0}

INTO_ATTENTION = "*/attention/*:block"
EMBEDDINGS = {"loss": "l2", "taps": (INTO_ATTENTION,), "count": 1}
HIDDEN = {"loss": "l2", "taps": (INTO_ATTENTION, "*:end"), "skip": 1}
ATTENTION = {"loss": "attention_mse", "taps": ("*/attention:scores",)}


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, layers=3, smoke=False)
    few = {"train_split": "train[:64]", "eval_split": "test[:64]"} if args.smoke else {}
    copied = {"kind": "depth", "remove": tuple(f"*/layer_{i}/*" for i in LEAVE_OUT[args.layers])}
    return recipe.config(
        name="rotten_tomatoes_distill",
        data={
            "name": "rotten_tomatoes",
            "length": 64,
            "buckets": (16, 24, 32, 48),
            "batch_size": 32,
            "eval_batch_size": 32,
            **few,
        },
        model={"name": "bert", "size": "minilm_l6"},
        stages=("teacher", "load", "layers", "inside", "distill", "evaluate"),
        teacher={"kind": "load", "file": TEACHER},
        load={"weights": "minilm"},
        layers=copied,
        inside={
            "kind": "distill",
            "teacher": "teacher",
            "epochs": 2,
            "lr": 1e-4,
            "mixture": 1.0,
            "terms": (EMBEDDINGS, HIDDEN, ATTENTION),
            **OPTIMIZER,
        },
        distill={
            "teacher": "teacher",
            "epochs": 2,
            "lr": 1e-4,
            "mixture": 1.0,
            "temperature": 1.0,
            **OPTIMIZER,
        },
        finetune={"epochs": 4, "lr": 1e-4, **OPTIMIZER},
        evaluate={"batch_size": 32, "latency_rounds": 5 if args.smoke else 10},
    )


def sweep() -> Iterator[dict[str, Any]]:
    """Three seeds of both depths, taught and untaught."""
    for seed in range(3):
        for layers, left_out in LEAVE_OUT.items():
            cut = {"layers.remove": tuple(f"*/layer_{i}/*" for i in left_out)}
            yield {"name": f"{layers}_layers_taught", "seed": seed, **cut}
            stages = ("teacher", "load", "layers", "finetune", "evaluate")
            yield {"name": f"{layers}_layers_untaught", "seed": seed, "stages": stages, **cut}
