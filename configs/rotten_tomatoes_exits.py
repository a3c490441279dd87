r"""MiniLM with an exit after each of its layers, on Rotten Tomatoes: depth by what a text needs.

    python -m experiments.main --config=configs/rotten_tomatoes_minilm.py \
        --workdir=runs/rotten_tomatoes_minilm
    python -m experiments.weights.keep --run=runs/rotten_tomatoes_minilm --stage=finetune \
        --file=runs/rotten_tomatoes_minilm/teacher.safetensors
    python -m experiments.main --config=configs/rotten_tomatoes_exits.py \
        --workdir=runs/rotten_tomatoes_exits

The exits classify the mean of the tokens, and are trained with the network towards the predictions
of the fine-tuned MiniLM that it starts from. (With BERT's own head, of the first token, those after
two layers stay at chance: only later does MiniLM gather there what a sentence says. Seen on the
same test sentences.)

Depth is then chosen by criteria at each exit, and by the text's complexity before anything is
computed; with the argument `light=FILE` of a smaller network that `experiments.weights.keep` wrote,
also by whether that one is sure. Thresholds and plans are fitted on one half of the test sentences
and tried on the other, both ways.

Arguments: `light`; `smoke`, for a minute on a few dozen sentences.

Zhou et al., BERT loses patience, 2020, https://arxiv.org/abs/2006.04152.
"""

from ml_collections import ConfigDict

from configs.rotten_tomatoes_distill import OPTIMIZER, TEACHER
from configs.rotten_tomatoes_minilm import data
from experiments import recipe


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, smoke=False, light="")
    return recipe.config(
        name="rotten_tomatoes_exits",
        data=data(args.smoke),
        model={"name": "bert", "size": "minilm_l6"},
        stages=("load", "exits", "dynamic", "evaluate"),
        load={"file": TEACHER},
        exits={
            "taps": ("*/attention/*:block",),
            "pooling": "mean",
            "pooler": True,
            "weights": "uniform",
            "epochs": 3,
            "lr": 1e-4,
            "distillation": {"teacher": "load", "mixture": 1.0, "temperature": 1.0},
            **OPTIMIZER,
        },
        dynamic={
            "complexity": True,
            "light": args.light,
            "latency_rounds": 1 if args.smoke else 5,
        },
        evaluate={"batch_size": 32, "latency_rounds": 5 if args.smoke else 30},
    )
