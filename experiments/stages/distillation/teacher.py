"""The teacher: a model of the same recipe, or of a file; and its values."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import build, cuts
from experiments.network import Network, Variables
from experiments.schema import ConfigError, unknown_name
from experiments.stages.distillation.objective import Teach
from experiments.stages.distillation.terms import LOGITS, Term, Values
from experiments.stages.load import check_same
from experiments.stages.stage import Context
from experiments.weights import safetensors_store


class Teacher(NamedTuple):
    """A network and its variables."""

    network: Network
    variables: Variables


def check(name: str, earlier: tuple[str, ...], field: str) -> None:
    """Refuses a teacher that is neither an earlier stage nor a file.

    Raises:
        ConfigError: see above.
    """
    if name in earlier or Path(name).is_file():
        return
    if not name:
        raise ConfigError(
            f"{field}: required: an earlier stage ({', '.join(earlier) or 'there is none'}), or a "
            "file that experiments.weights.keep wrote"
        )
    if "/" in name or name.endswith(".safetensors"):
        raise ConfigError(f"{field} = {name!r}: no such file")
    raise unknown_name(field, name, earlier)


def find(context: Context, name: str, field: str) -> Teacher:
    """The teacher of a stage, whose name stands at `field` of the config.

    Raises:
        ConfigError: there is none of that name, or its file is not of the model that it says.
    """
    check(name, tuple(context.earlier), field)
    if name in context.earlier:
        model = context.earlier[name]()
        return Teacher(context.network.shrunk(model.plans), model.variables)
    variables, metadata = safetensors_store.load(Path(name))
    whole = context.network
    if section := metadata.get("recipe", {}).get("model"):
        build.check(section, context.dataset.info.modality)
        whole = build.network(section, context.dataset.info, context.precision)
    of_file = whole.shrunk(map(cuts.from_json, metadata.get("plans", ())))
    expected = of_file.abstract()
    check_same(expected, variables, f"{field} = {name!r}")
    loaded = jax.tree.map(lambda e, v: jnp.asarray(v, e.dtype), expected, dict(variables))
    return Teacher(of_file, loaded)


def lessons(teacher: Network, terms: tuple[Term, ...]) -> Teach:
    """What of a teacher the terms compare with, in evaluation: the logits, and values at taps."""
    names = tuple(dict.fromkeys(tap.name for term in terms for tap in term.teacher))
    run = teacher.tapped_predict(names) if names else None

    def teach(variables: Variables, inputs: jax.Array) -> Values:
        if run is None:
            return {LOGITS: teacher.predict(variables, inputs)}
        logits, values = run(variables, inputs)
        return {LOGITS: logits, **values}

    return teach
