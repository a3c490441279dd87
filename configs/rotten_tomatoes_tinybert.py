r"""TinyBERT of MiniLM on Rotten Tomatoes: taught in general, then of the task, on more sentences.

    python -m experiments.main --config=configs/rotten_tomatoes_minilm.py \
        --workdir=runs/rotten_tomatoes_minilm
    python -m experiments.weights.keep --run=runs/rotten_tomatoes_minilm --stage=finetune \
        --file=runs/rotten_tomatoes_minilm/teacher.safetensors
    python -m experiments.weights.masked_lm --config=configs/rotten_tomatoes_tinybert.py \
        --file=runs/minilm_masked_lm.safetensors
    python -m experiments.main --config=configs/rotten_tomatoes_tinybert.py --sweep \
        --workdir=runs/rotten_tomatoes_tinybert

What `rotten_tomatoes_distill` leaves out of the paper is here. A student starts as every second or
third layer of MiniLM as it was published, and learns its embeddings, attention scores and hidden
states on the first 64 tokens of IMDB's reviews (the paper: on Wikipedia); then those of the
fine-tuned MiniLM, then its predictions, on the training sentences and four copies of each, in which
40% of the words are replaced by one of the 15 that a masked language model finds likeliest there.
MiniLM was published without such a model's head: the third command trains one on the same
sentences. Neighbours of words of several tokens are those in its token embeddings (the paper:
GloVe's). No label is looked at.

On 2 cores the copies and the student of three layers took 22 minutes together, and reach 82.46%
(one seed; the teacher 83.77%): no more than the shorter way of `rotten_tomatoes_distill`, whose
spread over seeds is 0.6 points. Arguments: `layers=2` for the smaller student, and
`smoke`, for a run of three minutes on a few dozen sentences.

Jiao et al., TinyBERT, 2020, https://arxiv.org/abs/1909.10351.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs.rotten_tomatoes_distill import (
    ATTENTION,
    EMBEDDINGS,
    HIDDEN,
    LEAVE_OUT,
    OPTIMIZER,
    TEACHER,
)
from configs.rotten_tomatoes_minilm import data
from experiments import recipe

STAGES = ("teacher", "load", "layers", "general", "inside", "distill", "evaluate")
MASKED_LM = "runs/minilm_masked_lm.safetensors"


def get_config(text: str = "") -> ConfigDict:
    """The recipe."""
    args = recipe.arguments(text, layers=3, smoke=False)
    task = data(args.smoke)
    general = {**task, "name": "imdb"}
    words = {"model": MASKED_LM, "size": "minilm_l6", "copies": 1 if args.smoke else 4}
    training = {"epochs": 1, "lr": 1e-4, **OPTIMIZER}
    return recipe.config(
        name="rotten_tomatoes_tinybert",
        data=task,
        model={"name": "bert", "size": "minilm_l6"},
        stages=STAGES,
        teacher={"kind": "load", "file": TEACHER},
        load={"weights": "minilm"},
        **method(
            LEAVE_OUT[args.layers], general, {**task, "replace_words": words}, (training,) * 3
        ),
        evaluate={"batch_size": 32, "latency_rounds": 5 if args.smoke else 30},
    )


def method(
    left_out: Iterable[int],
    general: dict[str, Any],
    task: dict[str, Any],
    trainings: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """TinyBERT's sections of a recipe of `STAGES`.

    Args:
        left_out: which layers the student lacks.
        general: the corpus of the general distillation.
        task: that of the task's two.
        trainings: how long and how fast each of the three is.
    """
    first, second, third = trainings
    terms = {"kind": "distill", "mixture": 1.0, "terms": (EMBEDDINGS, HIDDEN, ATTENTION)}
    predictions = {"teacher": "teacher", "mixture": 1.0, "temperature": 1.0}
    return {
        "layers": {"kind": "depth", "remove": tuple(f"*/layer_{i}/*" for i in left_out)},
        "general": {**terms, "teacher": "load", "corpus": general, **first},
        "inside": {**terms, "teacher": "teacher", "corpus": task, **second},
        "distill": {**predictions, "corpus": task, **third},
    }


def sweep() -> Iterator[dict[str, Any]]:
    """Three seeds of both depths."""
    for layers, left_out in LEAVE_OUT.items():
        cut = {"layers.remove": tuple(f"*/layer_{i}/*" for i in left_out)}
        for seed in range(3):
            yield {"name": f"{layers}_layers", "seed": seed, **cut}
