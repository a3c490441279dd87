"""Tries what a network with exits saves: accuracy against measured time, beside a full network.

Leaves `dynamic.json`, a table and pictures; no model.
"""

from pathlib import Path

import jax
import numpy as np

from experiments import report
from experiments.data.info import TEXT
from experiments.dynamic.by_cascade import ByCascade
from experiments.dynamic.by_complexity import ByComplexity
from experiments.dynamic.by_criterion import ByCriterion, Learned
from experiments.dynamic.method import Method
from experiments.dynamic.subject import Net, Subject, by_length
from experiments.dynamic.tried import try_all
from experiments.measure import on_one_device
from experiments.network import Network, Variables, prepare
from experiments.schema import ConfigError, refused, unknown_name
from experiments.stages.distillation import teacher
from experiments.stages.dynamic_config import DynamicConfig
from experiments.stages.stage import Context, Model, Result, Stage
from experiments.weights import minilm
from slim.dynamic import read_vocabulary


def run(context: Context, config: DynamicConfig, model: Model | None) -> Result:
    """Fits, chooses, runs and times every way; writes the record.

    Raises:
        ConfigError: the model has no exits, the light network is not lighter, or data are no texts
            where complexity is asked for.
    """
    if config.complexity and context.dataset.info.modality != TEXT:
        raise ConfigError(
            f"{context.name}.complexity = True: it is of texts, and {context.dataset.info.name} "
            f"has {context.dataset.info.modality.noun}s; leave it out"
        )
    subject = _subject(context, config, model)
    methods: dict[str, Method] = {name: ByCriterion(subject, name) for name in config.criteria}
    methods |= {f"{name}, learned": Learned(subject, name) for name in config.learned}
    if config.complexity:
        train, _ = context.dataset.train.gather(np.arange(len(context.dataset.train)))
        words = read_vocabulary(minilm.tokenizer().get_vocab())
        methods["complexity"] = ByComplexity(subject, train, words)
    if subject.light is not None:
        methods["dual"] = ByCascade(subject)
    with refused(context.name):
        record = try_all(
            subject,
            methods,
            config.tolerances,
            singles=config.singles,
            rounds=config.latency_rounds,
        )
    if jax.process_index() == 0:
        report.write_dynamic(record, context.directory)
    return Result()


def _subject(context: Context, config: DynamicConfig, model: Model | None) -> Subject:
    assert model is not None
    name = config.model or list(context.earlier)[-1]
    field = f"{context.name}.model = {name!r}"
    if config.model:
        if config.model not in context.earlier:
            raise unknown_name(f"{context.name}.model", name, context.earlier)
        model = context.earlier[config.model]()
    network = context.network.shrunk(model.plans)
    with refused(field):
        _ = network.exit_plan
    full = _whole(context, config.full or next(iter(context.earlier)), "full")
    light = _whole(context, config.light, "light") if config.light else None
    buckets, labels = by_length(context.dataset, config.examples)
    exits = Net(
        name,
        lambda variables, inputs: network.exits(variables, prepare(inputs)),
        on_one_device(model.variables),
    )
    subject = Subject(exits, full, light, buckets, labels, config.sizes)
    if light is not None:
        own, whole = (float(subject.net_macs(net).mean()) for net in (light, full))
        if own >= whole:
            raise ConfigError(
                f"{context.name}.light = {config.light!r}: takes {own:.3g} multiply-accumulates an "
                f"example, and {full.name!r}, the full network, {whole:.3g}; name a lighter one"
            )
    return subject


def _whole(context: Context, name: str, field: str) -> Net:
    """The network of an earlier stage or a file."""
    found = teacher.find(context, name, f"{context.name}.{field}")
    return _net(Path(name).stem, found.network, found.variables)


def _net(name: str, network: Network, variables: Variables) -> Net:
    return Net(
        name,
        lambda variables, inputs: network.predict(variables, prepare(inputs)),
        on_one_device(variables),
    )


def _check(config: DynamicConfig, earlier: tuple[str, ...], name: str) -> None:
    if config.model and config.model not in earlier:
        raise unknown_name(f"{name}.model", config.model, earlier)
    for field in ("full", "light"):
        if value := getattr(config, field):
            teacher.check(value, earlier, f"{name}.{field}")
    if config.light and config.light == (config.full or earlier[0]):
        raise ConfigError(
            f"{name}.light = {config.light!r}: it is the full network too; name a lighter one"
        )


STAGE = Stage(DynamicConfig, run, needs_model=True, needs_floats=False, check=_check)
