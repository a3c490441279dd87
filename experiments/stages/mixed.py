"""Mixed precision: the format of every site that loses least within a budget.

Each site alone is measured in each format, effects are taken to add up, and the best assignment is
found exactly. `quantize` makes of it the model.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax
import pydantic
from pydantic import Field

from experiments.report.bits import Best, Foretold, Measured, Mixed
from experiments.schema import Schema, one_of, refused
from experiments.stages.site_latency import site_seconds
from slim.graph import Graph
from slim.measure import classification
from slim.quant import (
    COSTS,
    Assigned,
    Option,
    allocate,
    measure_sites,
    mix,
    pareto,
    weight_bytes,
)
from slim.quant.numerics import FORMATS

PyTree = Any

LOG = logging.getLogger("slim")

LATENCY = "latency"


class SearchConfig(Schema):
    """What a search for the sites' formats measures.

    Attributes:
        formats: of weights, to choose from; names of `slim.quant.numerics.FORMATS`.
        by: the effect: the `kl` divergence of the outputs from the float ones, or the rise of the
            `loss`; nats.
        examples: training examples that effects are measured on, rounded up to whole batches.
        latency_batch: examples in a timed call.
        latency_rounds: samples of each latency.
    """

    formats: Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], Field(min_length=1)]
    by: Annotated[str, one_of(("kl", "loss"))] = "kl"
    examples: Annotated[int, Field(ge=1)] = 1024
    latency_batch: Annotated[int, Field(ge=1)] = 64
    latency_rounds: Annotated[int, Field(ge=1)] = 15

    @pydantic.model_validator(mode="after")
    def _differ(self) -> "SearchConfig":
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats = {self.formats!r}: each may be there once")
        return self


class MixedConfig(SearchConfig):
    """A format for every site within a budget; activations are as the stage has them.

    Attributes:
        formats: two or more.
        budget: of what: packed `bytes` of weights, `bit_operations`, or the `latency` of each site
            alone, measured on this device.
        keep_ratio: the budget, as a share of what all quantized sites cost if each has the widest
            format that it may.
    """

    formats: Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], Field(min_length=2)] = (
        "int4",
        "int8",
    )
    budget: Annotated[str, one_of((*COSTS, LATENCY))] = "bytes"
    keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.6


def choose_formats(
    config: MixedConfig,
    graph: Graph,
    params: PyTree,
    options: Mapping[str, Option],
    batches: Iterable[tuple[Any, ...]],
    *,
    field: str = "mixed",
) -> tuple[dict[str, Assigned], Mixed]:
    """What every site gets, and the record for `experiments.report.write_mixed`.

    `mix(options, record.best.formats)` has the scales too.

    Args:
        config: the choice to make.
        graph: of the evaluation function.
        params: the float parameters.
        options: the model quantized in each of the formats, by the format's name. Sites that they
            leave float stay float; where they give a site the same there is nothing to choose.
        batches: (inputs as the function takes them, labels).
        field: of the config, for messages.

    Raises:
        ConfigError: the budget cannot be met, or an effect is not finite.
    """
    different = _distinct(options)
    with refused(field):
        effects = measure_sites(graph, params, different, batches, loss)
    nbytes = {name: weight_bytes(graph, option.sites) for name, option in options.items()}
    costs = _costs(config, graph, params, different)
    sites = {
        site: {
            name: Measured(
                kl=kl,
                loss=(effects.loss or {})[site][name],
                cost=costs[site][name],
                bits=_bits(options[name].sites[site]),
                bytes=nbytes[name][site],
            )
            for name, kl in each.items()
        }
        for site, each in effects.kl.items()
    }
    widest = math.fsum(
        max(each.values(), key=lambda measured: measured.bits or 0).cost for each in sites.values()
    )
    limit = config.keep_ratio * widest
    tables = effects.tables(costs, config.by)
    with refused(f"{field}.keep_ratio = {config.keep_ratio:g} of the {config.budget}"):
        best = allocate(tables, limit)
    record = Mixed.model_validate(
        {
            "budget": config.budget,
            "by": config.by,
            "limit": limit,
            "widest": widest,
            "sites": sites,
            "best": Best(cost=best.cost, loss=best.loss, formats=best.formats),
            "front": tuple(Foretold(cost=each.cost, loss=each.loss) for each in pareto(tables)),
        }
    )
    _log(field, record)
    return dict(mix(options, best.formats).sites), record


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy in nats."""
    return classification.cross_entropy(logits, labels).mean()


def _distinct(options: Mapping[str, Option]) -> dict[str, Option]:
    """The options, each without the sites that another has in the same form.

    Of those that are alike remains the one that the form is named after.
    """
    kept: dict[str, set[str]] = {name: set() for name in options}
    for site in {site for option in options.values() for site in option.sites}:
        ways = {name: each.sites[site] for name, each in options.items() if site in each.sites}
        forms = set()
        for name in sorted(ways, key=lambda name: _format(ways[name]) != name):
            form = (ways[name].weights, ways[name].activations)
            if form not in forms:
                kept[name].add(site)
            forms.add(form)
    return {
        name: Option(
            {site: each for site, each in option.sites.items() if site in kept[name]},
            {site: each for site, each in option.scales.items() if site in kept[name]},
        )
        for name, option in options.items()
    }


def _format(assigned: Assigned) -> str | None:
    return None if assigned.weights is None else assigned.weights.format


def _bits(assigned: Assigned) -> int | None:
    return None if assigned.weights is None else FORMATS[assigned.weights.format].bits


def _costs(
    config: MixedConfig, graph: Graph, params: PyTree, options: Mapping[str, Option]
) -> dict[str, dict[str, float]]:
    """By site and option."""
    if config.budget == LATENCY:
        return site_seconds(
            graph, params, options, batch=config.latency_batch, rounds=config.latency_rounds
        )
    costs: dict[str, dict[str, float]] = {}
    for name, option in options.items():
        for site, cost in COSTS[config.budget](graph, option.sites).items():
            costs.setdefault(site, {})[name] = cost
    return costs


def _log(field: str, record: Mixed) -> None:
    chosen = list(record.best.formats.values())
    LOG.info(
        "%s: %s, at %.1f%% of the %s that the widest have; the sites' %s add up to %.3g",
        field,
        ", ".join(f"{name} at {chosen.count(name)} sites" for name in dict.fromkeys(chosen)),
        100 * record.best.cost / record.widest,
        record.budget,
        record.by,
        record.best.loss,
    )
