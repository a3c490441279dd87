r"""Goes on with a text, by a model of language that a run trained.

    python -m experiments.generate --run=runs/brown_moe --prompt='The jury said' --length=60

prints the text, its end drawn token by token with a cache of those before. A prompt stands at the
beginning of a document; the empty one too. Places beyond the rows that the model was trained on
(`data.length`) are new to it. The run's data must be where they were: the tokens are theirs.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from absl import logging as absl_logging

from experiments import build, recipe, report
from experiments.data import byte_pairs, language_sets, sets, tfds_sets
from experiments.data.config import DataConfig
from experiments.data.info import LANGUAGE
from experiments.network import Network, Variables
from experiments.of_run import RUN, STAGE
from experiments.precision import PRECISIONS
from experiments.schema import ConfigError, unknown_name
from experiments.workdir import Finished
from slim.models.deepseek import empty_cache
from slim.models.generate import generate, greedy, sampler

_PROMPT = flags.DEFINE_string("prompt", "", "How the text begins.")
_LENGTH = flags.DEFINE_integer("length", 64, "Tokens to add, at most.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.8, "Of what is drawn; 0: the likeliest token.")
_TOP_P = flags.DEFINE_float("top_p", 0.95, "Of the likeliest tokens those that have this share.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")


def trained(run: Path, stage: str | None = None) -> tuple[Network, Variables, DataConfig]:
    """A model of language, its variables, and the data that it was trained on.

    Args:
        run: the directory with the report.
        stage: which stage's model; None: the one that the recipe ends in.

    Raises:
        ConfigError: there is no report, no such stage, or no model of language with tokens of text.
    """
    try:
        found = report.read(run / "report.json")
    except FileNotFoundError:
        raise ConfigError(f"--run={run}: it has no report.json; name a run that ended") from None
    made = recipe.resolve({**found.recipe, "mesh": {}}, 1)
    data = made.settings.data
    if data.modality != LANGUAGE or data.name not in (
        *language_sets.SETS,
        language_sets.TEXT_FILES,
    ):
        raise ConfigError(
            f"--run={run}: its data, {data.name}, have no tokens of text to go on with"
        )
    entries = {entry.name: entry for entry in found.stages}
    name = found.final if stage is None else stage
    if name not in entries:
        raise unknown_name("--stage", name, entries)
    checkpoint = entries[name].checkpoint
    if checkpoint is None:
        raise ConfigError(f"--stage={name}: it left no model")
    net = build.network(made.settings.model, sets.info(data), PRECISIONS[made.settings.precision])
    finished = Finished((run / checkpoint).parent)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    model = finished.model(net, device)
    net = net.shrunk(model.plans)
    if net.before is not None:
        raise ConfigError(
            f"--stage={name}: its widths or bits were cut, and only whole or fewer experts are "
            "decoded with a cache; name a stage before"
        )
    return net, model.variables, data


def continued(
    net: Network,
    variables: Variables,
    data: DataConfig,
    prompt: str,
    *,
    length: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> str:
    """The prompt and what follows it, to the end of the document or for `length` tokens.

    Raises:
        ConfigError: `length`, `temperature` or `top_p` is out of range.
    """
    assert data.vocabulary is not None
    folder = language_sets.kept(
        data.name,
        tfds_sets.folder(data.data_dir),
        vocabulary=data.vocabulary,
        files=data.files,
        separator=data.separator,
    )
    tokenizer = language_sets.tokenizer(folder)
    ids = [byte_pairs.END_ID, *byte_pairs.stream(tokenizer, [prompt])[:-1].tolist()]
    try:
        draw = sampler(temperature, top_p=top_p) if temperature else greedy
        new = _run(net, variables, ids, jax.random.key(seed), length, draw)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if byte_pairs.END_ID in new:
        new = new[: new.index(byte_pairs.END_ID)]
    text: str = tokenizer.decode(ids[1:] + new)
    return text


def _run(
    net: Network, variables: Variables, ids: list[int], key: jax.Array, length: int, draw: Any
) -> list[int]:
    """The new tokens, in one compiled program."""
    assert net.language is not None
    cache = empty_cache(net.language.config, 1, len(ids) + length, net.language.dtype)

    @jax.jit
    def new(variables: Variables, prompt: jax.Array, key: jax.Array) -> jax.Array:
        step = partial(net.decode, variables)
        return generate(step, cache, prompt, key, length=length, draw=draw, stop=byte_pairs.END_ID)

    tokens: list[int] = new(variables, jnp.array([ids], jnp.int32), key)[0].tolist()
    return tokens


def main(argv: Sequence[str]) -> None:
    """Reads the flags; what is wrong with them becomes one line and exit code 2."""
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)  # libraries
    try:
        net, variables, data = trained(Path(RUN.value), STAGE.value)
        text = continued(
            net,
            variables,
            data,
            _PROMPT.value,
            length=_LENGTH.value,
            temperature=_TEMPERATURE.value,
            top_p=_TOP_P.value,
            seed=_SEED.value,
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(text)


if __name__ == "__main__":
    app.run(main)
