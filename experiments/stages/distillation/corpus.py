"""Training on other examples than the recipe's, as a student does that learns in general."""

import dataclasses

from experiments.data import sets
from experiments.data.config import DataConfig
from experiments.data.info import DataInfo
from experiments.schema import ConfigError, refused
from experiments.stages.distillation.config import Distillation
from experiments.stages.stage import Context
from slim.distill import LOSSES


def info(corpus: DataConfig, config: Distillation, own: DataInfo, field: str) -> DataInfo:
    """What is known of a corpus before its data are read.

    Args:
        corpus: the data to train on.
        config: what the stage compares.
        own: of the recipe's data.
        field: where `corpus` stands in the config.

    Raises:
        ConfigError: there is no such set, its examples have another shape, or its labels, which are
            others, would be learnt.
    """
    with refused(field):
        found = sets.info(corpus)
    if (found.modality, found.input_shape) != (own.modality, own.input_shape):
        raise ConfigError(
            f"{field}: {found.modality.noun}s of shape {found.input_shape}, and those of the data "
            f"have {own.input_shape}; texts are cut at `length`: give both the same"
        )
    looks_at = [term.loss for term in config.terms if "labels" in LOSSES[term.loss].settings]
    if found.class_names != own.class_names and (looks_at or not config.without_labels):
        what = f"loss {looks_at[0]!r} looks at labels" if looks_at else "set mixture = 1.0"
        raise ConfigError(
            f"{field}: {found.name} has labels {found.class_names}, not those of the data, "
            f"{own.class_names}: no label of it may be learnt: {what}"
        )
    return found


def on(context: Context, corpus: DataConfig, config: Distillation, field: str) -> Context:
    """The context of a stage that trains on a corpus and is evaluated on the recipe's data.

    Raises:
        ConfigError: as `info`.
    """
    own = context.dataset
    found = info(corpus, config, own.info, field)
    with refused(field):
        examples = sets.load(corpus)
    dataset = dataclasses.replace(
        examples,
        info=dataclasses.replace(own.info, num_train=found.num_train),
        eval=own.eval,
        eval_batch_size=own.eval_batch_size,
    )
    return dataclasses.replace(context, data=corpus, dataset=dataset)
