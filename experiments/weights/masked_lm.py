r"""Trains a masked language model on a recipe's texts, for `data.replace_words` to ask.

    python -m experiments.weights.masked_lm --config=configs/rotten_tomatoes_tinybert.py \
        --file=runs/minilm_masked_lm.safetensors

Sentence encoders such as MiniLM come without the head that predicts masked tokens. Here it begins
anew, and is trained with the encoder that it stands on: of a text's tokens 15% are to be predicted,
of which 80% are masked, 10% are others and 10% are shown (Devlin et al., arXiv:1810.04805, 3.1).
Labels are not looked at, and of the texts only those for training are. The file has Hugging Face's
names; its header says how often masked tokens of the evaluation texts are the likeliest, or among
the 15 likeliest.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import recipe
from experiments.data import sets, words
from experiments.data.config import DataConfig
from experiments.data.dataset import Dataset
from experiments.data.info import TEXT
from experiments.data.words import Vocabulary
from experiments.schema import ConfigError, parse
from experiments.weights import hugging_face, minilm
from slim.models.bert import PADDING, MaskedLM, bert_config

PyTree = Any

LOG = logging.getLogger("slim")

HEAD = ("transform", "transform_norm", "decoder_bias")
SHARE = 0.15
"""Of a text's tokens, to be predicted."""
TOP = 15
"""Among how many a token is looked for in evaluation: TinyBERT's K."""


class Masked(NamedTuple):
    """Texts of which some tokens are to be predicted.

    Attributes:
        ids: (rows, length), what the model sees.
        places: (rows, count), where.
        targets: (rows, count), the tokens that were there.
        weights: float32 (rows, count), 0 where a text has fewer.
    """

    ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def corrupt(random: np.random.Generator, ids: np.ndarray, known: Vocabulary) -> Masked:
    """Chooses tokens of texts `(rows, length)`, at least one of each that has any, and hides them.

    Args:
        random: decides which, and how they are hidden.
        ids: 0 where a text has ended.
        known: of their tokens; special ones are neither predicted nor put in another's place.
    """
    text = ~known.special[ids]
    count = -(-int(SHARE * 100) * ids.shape[1] // 100)
    places = np.argsort(np.where(text, random.random(ids.shape), 2.0), axis=1)[:, :count]
    wanted = np.minimum(np.maximum(np.rint(SHARE * text.sum(1)), 1), text.sum(1))
    weights = np.arange(count) < wanted[:, None]
    targets = np.take_along_axis(ids, places, axis=1)
    others = random.choice(np.flatnonzero(~known.special), targets.shape)
    dice = random.random(targets.shape)
    shown = np.where(dice < 0.8, known.mask, np.where(dice < 0.9, others, targets))
    seen = ids.copy()
    np.put_along_axis(seen, places, np.where(weights, shown, targets).astype(ids.dtype), axis=1)
    return Masked(seen, places, targets, weights.astype(np.float32))


def begin(model: MaskedLM, tensors: dict[str, np.ndarray], seed: int) -> PyTree:
    """The variables of a checkpoint, with a fresh head where it has none.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    found = hugging_face.convert(tensors, model, HEAD)["params"]
    ids = jnp.zeros((1, 1), jnp.int32)
    fresh = jax.jit(lambda key: model.init(key, ids, ids, train=False))(jax.random.key(seed))
    return {"params": {**{name: fresh["params"][name] for name in HEAD}, **found}}


def train(
    model: MaskedLM,
    variables: PyTree,
    dataset: Dataset,
    known: Vocabulary,
    *,
    steps: int,
    rate: float,
    seed: int,
) -> PyTree:
    """The variables after so many steps of AdamW, its rate rising for a tenth, then falling to 0.

    Raises:
        ValueError: the loss is not finite.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @jax.jit
    def step(
        variables: PyTree, state: optax.OptState, batch: Masked, key: jax.Array
    ) -> tuple[PyTree, optax.OptState, jax.Array]:
        def loss(variables: PyTree) -> jax.Array:
            logits = model.apply(
                variables,
                batch.ids,
                batch.ids != PADDING,
                batch.places,
                train=True,
                method="at",
                rngs={"dropout": key},
            )
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
            return (nats * batch.weights).sum() / batch.weights.sum()

        value, grads = jax.value_and_grad(loss)(variables)
        updates, state = optimizer.update(grads, state, variables)
        return optax.apply_updates(variables, updates), state, value

    variables = jax.device_put(variables)
    state, losses = optimizer.init(variables), []
    random, key = np.random.default_rng(seed), jax.random.key(seed)
    batches: Iterator[dict[str, np.ndarray]] = dataset.batches(seed)
    for i in range(steps):
        batch = corrupt(random, next(batches)["input"], known)
        variables, state, value = step(variables, state, batch, jax.random.fold_in(key, i))
        losses.append(value)
        if (i + 1) % 50 == 0 or i + 1 == steps:
            mean = float(np.mean(jax.device_get(losses)))
            LOG.info("step %d of %d: loss %.3f", i + 1, steps, mean)
            if not np.isfinite(mean):
                raise ValueError(f"the loss is not finite at step {i + 1}; lower --lr = {rate:g}")
            losses = []
    return variables


def evaluate(
    model: MaskedLM, variables: PyTree, dataset: Dataset, known: Vocabulary
) -> tuple[float, float]:
    """How often a masked token of the evaluation texts is the likeliest; and one of the `TOP`."""

    @jax.jit
    def ranks(variables: PyTree, batch: Masked) -> jax.Array:
        seen = batch.ids != PADDING
        logits: Any = model.apply(
            variables, batch.ids, seen, batch.places, train=False, method="at"
        )
        own = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)
        return (logits > own).sum(-1)

    random, right, total = np.random.default_rng(0), np.zeros(2), 0.0
    for rows in dataset.eval_batches():
        batch = corrupt(random, rows["input"], known)
        found = np.asarray(ranks(variables, batch))
        right += [(batch.weights * (found < most)).sum() for most in (1, TOP)]
        total += batch.weights.sum()
    first, among = right / total
    return float(first), float(among)


def main(argv: list[str]) -> None:
    """Reads the command line, trains, and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.weights.masked_lm")
    parser.add_argument("--config", required=True, help="a recipe: its data, and its BERT's size")
    parser.add_argument("--file", required=True, help="where to write the model")
    parser.add_argument("--start", help="a BERT's checkpoint to start from; MiniLM, if left out")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    config = recipe.load(given.config)
    data = parse(DataConfig, {**config.data.to_dict(), "replace_words": None}, "data")
    if data.modality != TEXT or config.model.name != "bert":
        raise ConfigError(f"--config={given.config}: not a recipe of a BERT and of texts")
    model = MaskedLM(bert_config(config.model.size))
    tensors = hugging_face.read(given.start) if given.start else minilm.tensors()
    dataset, known = sets.load(data), words.vocabulary(minilm.tokenizer())
    variables = train(
        model,
        begin(model, tensors, given.seed),
        dataset,
        known,
        steps=given.steps,
        rate=given.lr,
        seed=given.seed,
    )
    first, among = evaluate(model, variables, dataset, known)
    print(f"of masked tokens {first:.1%} are the likeliest, {among:.1%} among the {TOP} likeliest")
    command = shlex.join(["python", "-m", "experiments.weights.masked_lm", *argv])
    found = {"command": command, "top1": f"{first:.4f}", f"top{TOP}": f"{among:.4f}"}
    hugging_face.write(given.file, variables, found)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    LOG.setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except (ConfigError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
