"""Precision adaptation: the cheapest way to compute each site, within a tolerance of the loss.

    candidates = {"bfloat16": Option(sites16, scales16), "int8": Option(sites8, scales8)}
    effects = measure_sites(graph, params, candidates, batches)
    option, best = auto(candidates, effects, seconds, tolerance=0.01)

With seconds measured on a device this is what pays there: a format that the device computes slower
than float is not chosen, whatever it would lose.
"""

from collections.abc import Mapping
from dataclasses import replace

from slim.quant.allocation import Allocation, cheapest
from slim.quant.sensitivity import Effects, Option, Values, mix

FLOAT = "float"
"""The precision that a site has before any is chosen, beside the candidates' names."""


def auto(
    candidates: Mapping[str, Option],
    effects: Effects,
    costs: Values,
    tolerance: float,
    *,
    by: str = "kl",
) -> tuple[Option, Allocation]:
    """Every site in the cheapest of the candidates and float, their effects together tolerable.

    As `cheapest` finds them, exactly; float has no effect.

    Args:
        candidates: ways to quantize the model, such as casts to 16 bits and eight-bit integers.
        effects: of `measure_sites` on the same candidates.
        costs: by site, of every candidate that was measured there and of `FLOAT`: seconds on the
            device, or bytes.
        tolerance: of the sum of effects: nats of KL divergence, or what the mean loss may rise.
        by: the effect, `kl` or `loss`.

    Returns:
        The sites and their scales, for `simulate` and `convert`; sites that stay float say so. And
        the choice, whose `loss` is the sum of the effects.

    Raises:
        ValueError: a tolerance below 0, an effect that was not measured, a missing cost.
    """
    tables = {}
    for site, table in effects.tables(costs, by).items():
        if FLOAT not in costs[site]:
            raise ValueError(f"costs has no {FLOAT!r} of site {site!r}: what it takes unquantized")
        tables[site] = {FLOAT: (0.0, costs[site][FLOAT]), **table}
    best = cheapest(tables, tolerance)
    chosen = {site: format for site, format in best.formats.items() if format != FLOAT}
    mixed = mix(candidates, chosen)
    floats = {
        site: replace(each, weights=None, activations=None, why="auto: float")
        for site, each in mixed.sites.items()
        if each.roles and site not in chosen
    }
    return Option({**mixed.sites, **floats}, mixed.scales), best
