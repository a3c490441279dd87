r"""TinyBERT of BERT-base with six layers, on SST-2: for an accelerator.

    weights=bert-base-uncased  # a folder with model.safetensors, or the file: you have it
    main="python -m experiments.main"
    $main --config=configs/bert_base_tinybert.py:teacher,weights=$weights \
        --workdir=runs/bert_base_sst2
    python -m experiments.weights.keep --run=runs/bert_base_sst2 --stage=finetune \
        --file=runs/bert_base_sst2/teacher.safetensors
    $main --config=configs/bert_base_tinybert.py:weights=$weights \
        --workdir=runs/bert_base_tinybert

The first command fine-tunes the teacher. In the last one a student starts as every second layer of
BERT as it was published, learns its embeddings, attention scores and hidden states on Yelp's
reviews, then those of the fine-tuned one and at last its predictions, on SST-2 and twenty copies of
each sentence, in which 40% of the words are replaced by one of the 15 that BERT's own masked
language model finds likeliest there.

`weights` is a checkpoint of `bert-base-uncased` as Hugging Face names its tensors, its masked
language model's head included. The sets are TFDS's `glue/sst2` and `yelp_polarity_reviews`,
prepared beforehand.

Not run here: BERT-base is not among the weights that packages have. The paper reports 93.1% on
SST-2's test set for its six-layer student, of 67 million parameters and twice as fast, and 93.4%
for the teacher; its differ in that their general corpus is Wikipedia, in sentences of 128 tokens,
their student starts from random weights, and neighbours of words of several tokens are GloVe's.
Texts are cut at 128 tokens. Expect most of the time to go into Yelp's 560,000 reviews, and the
copies to take about a million runs of BERT, once.

`smoke` takes any checkpoint of the size `tiny` (two layers of width 128), and film reviews.

Jiao et al., TinyBERT, 2020, https://arxiv.org/abs/1909.10351.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.rotten_tomatoes_distill import OPTIMIZER
from configs.rotten_tomatoes_tinybert import STAGES, method
from experiments import recipe

WEIGHTS = "bert-base-uncased"
TEACHER = "runs/bert_base_sst2/teacher.safetensors"


def get_config(text: str = "") -> ConfigDict:
    """The recipe: the student's, or with `teacher` the teacher's."""
    args = recipe.arguments(text, weights=WEIGHTS, teacher=False, smoke=False)
    size = "tiny" if args.smoke else "bert_base"
    task, general = _data(args.smoke)
    words = {"model": args.weights, "size": size, "copies": 1 if args.smoke else 20}

    def training(epochs: int, lr: float) -> dict[str, Any]:
        return {"epochs": 1 if args.smoke else epochs, "lr": lr, "warmup_epochs": 0.1, **OPTIMIZER}

    return recipe.config(
        name="bert_base_tinybert",
        data=task,
        model={"name": "bert", "size": size},
        precision="float32" if args.smoke else "bfloat16",
        stages=("load", "finetune", "evaluate") if args.teacher else STAGES,
        teacher={"kind": "load", "file": TEACHER},
        load={"file": args.weights},
        finetune=training(3, 2e-5),
        **method(
            (0,) if args.smoke else (0, 2, 4, 6, 8, 10),
            general,
            {**task, "replace_words": words},
            (training(3, 1e-4), training(10, 5e-5), training(3, 3e-5)),
        ),
        evaluate={"batch_size": 32, "latency_rounds": 5 if args.smoke else 30},
    )


def _data(smoke: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task's, and the general corpus's."""
    if smoke:
        few = {"train_split": "train[:64]", "eval_split": "test[:64]", "batch_size": 32}
        both = {"length": 16, "eval_batch_size": 32, **few}
        return {"name": "rotten_tomatoes", **both}, {"name": "imdb", **both}
    both = {"length": 128, "buckets": (16, 32, 64), "eval_batch_size": 256}
    return (
        {"name": "glue/sst2", "batch_size": 32, **both},
        {"name": "yelp_polarity_reviews", "batch_size": 256, **both},
    )
