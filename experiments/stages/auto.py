"""Precision adaptation: each site as this device computes it fastest, within a tolerance."""

import logging
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.schema import one_of, refused
from experiments.stages.mixed import SearchConfig, loss
from experiments.stages.site_latency import site_seconds
from slim.graph import Graph
from slim.quant import Option, Policy, assign, auto, measure_sites, weight_bytes
from slim.quant.numerics import FORMATS
from slim.quant.precision import FLOAT

PyTree = Any

LOG = logging.getLogger("slim")


class AutoConfig(SearchConfig):
    """A format for every site, or float, by what it costs and what is lost.

    Attributes:
        formats: beside float. A cast (`bfloat16`, `float16`) is of weights and activations, another
            of weights: activations are as the stage has them.
        tolerance: of the sum of the sites' effects.
        cost: the `latency` of each site alone, measured on this device, or packed `bytes`.
    """

    formats: Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], Field(min_length=1)] = (
        "bfloat16",
        "float16",
        "int8",
    )
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    cost: Literal["latency", "bytes"] = "latency"


def adapt(
    config: AutoConfig,
    graph: Graph,
    params: PyTree,
    candidates: Mapping[str, Option],
    batches: Iterable[tuple[Any, ...]],
    *,
    field: str,
) -> Option:
    """What every site gets, and the scales of those that are quantized.

    Args:
        config: the choice to make.
        graph: of the evaluation function.
        params: the float parameters.
        candidates: the model quantized in each of the formats, by the format's name.
        batches: (inputs as the function takes them, labels).
        field: of the config, for messages.

    Raises:
        ConfigError: an effect is not finite.
    """
    with refused(field):
        effects = measure_sites(graph, params, candidates, batches, loss)
        costs = _costs(config, graph, params, candidates)
        option, best = auto(candidates, effects, costs, config.tolerance, by=config.by)
    floats = sum(costs[site][FLOAT] for site in best.formats)
    chosen = list(best.formats.values())
    LOG.info(
        "%s: %s; %.0f%% of the %s of float, the sites' %s add up to %.3g",
        field,
        ", ".join(f"{name} at {chosen.count(name)} sites" for name in dict.fromkeys(chosen)),
        100 * best.cost / floats,
        config.cost,
        config.by,
        best.loss,
    )
    return option


def _costs(
    config: AutoConfig, graph: Graph, params: PyTree, candidates: Mapping[str, Option]
) -> dict[str, dict[str, float]]:
    """By site and candidate, and as float."""
    if config.cost == "latency":
        return site_seconds(
            graph, params, candidates, batch=config.latency_batch, rounds=config.latency_rounds
        )
    tables = {name: weight_bytes(graph, option.sites) for name, option in candidates.items()}
    tables[FLOAT] = weight_bytes(graph, assign(graph, Policy((), edges=None)))
    sites = {site for option in candidates.values() for site in option.sites}
    return {
        site: {name: float(table[site]) for name, table in tables.items() if site in table}
        for site in sites
    }
