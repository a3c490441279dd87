"""The latency of every site alone on this device, in float and as each option quantizes it.

A site's product is compiled by itself at its shapes, what it rounds or scales back to floats
included; what XLA would fuse with it in the model is not.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import processes
from experiments.timing import in_turn
from slim.graph import Contraction, Graph, Site, equation, site_parameters, sites, trace
from slim.graph.trace import abstract
from slim.quant import Option, convert
from slim.quant.integer import run_site
from slim.quant.precision import FLOAT
from slim.quant.sensitivity import quantizes

PyTree = Any


class Way(NamedTuple):
    """One way to compute a site: as one option quantizes it, or in float.

    Attributes:
        site: its name.
        option: the option's, or `FLOAT`.
        run: the computation.
        args: what on.
    """

    site: str
    option: str
    run: Callable[..., jax.Array]
    args: tuple[Any, ...]


def site_seconds(
    graph: Graph, params: PyTree, options: Mapping[str, Option], *, batch: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds by site and option, and as `FLOAT`, of all rounds of the scans around a site.

    An option computes what `slim.quant.execute` does: an integer product where weights and
    activations are integers, else a float product of weights that are scaled back.

    Args:
        graph: of the evaluation function; its inputs' first dimension is the batch.
        params: the float parameters.
        options: the ways; a site has those that quantize it.
        batch: examples in a call.
        rounds: samples of each latency.

    Returns:
        The sites that an option quantizes. Programs that are equal are timed once; all are timed
        in turn, on the first local device; all processes get the first one's times.
    """
    inputs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), graph.inputs
    )
    graph = trace(graph.fn, graph.params, *inputs)
    device = jax.local_devices()[0]
    scales = {name: option.scales for name, option in options.items()}
    params, scales = jax.device_put(jax.device_get((params, scales)), device)
    options = {name: option._replace(scales=scales[name]) for name, option in options.items()}
    loops = {site.name: math.prod(site.loops) for site in sites(graph)}
    calls: dict[str, Callable[[], jax.Array]] = {}
    programs: dict[str, dict[str, str]] = {}
    with jax.default_device(device):
        for way in _ways(graph, params, options):
            lowered = jax.jit(way.run).lower(*abstract(way.args))
            text = lowered.as_text()
            if text not in calls:
                calls[text] = partial(lowered.compile(), *way.args)
            programs.setdefault(way.site, {})[way.option] = text
        times = in_turn(calls, rounds=rounds)
    return {
        site: {
            option: processes.from_first(round(1e9 * times[text].median_s)) / 1e9 * loops[site]
            for option, text in each.items()
        }
        for site, each in programs.items()
    }


def _ways(graph: Graph, params: PyTree, options: Mapping[str, Option]) -> Iterator[Way]:
    """Of all sites that an option quantizes, in one round of their scans."""
    stored = {
        name: convert(graph, option.sites, params, option.scales).sites
        for name, option in options.items()
    }
    parameters = site_parameters(graph, params)
    for site in sites(graph):
        given = {
            n: stored[n][site.name] for n, each in options.items() if quantizes(each, site.name)
        }
        if not given:
            continue
        contract = Contraction(site, equation(graph, site))
        operands = [
            _first_round(parameters[site.name], site)
            if path is not None
            else _data(contract, place)
            for place, path in enumerate(site.operands)
        ]
        yield Way(site.name, FLOAT, partial(_in_float, contract), (operands,))
        for name, held in given.items():
            assigned, left = options[name].sites[site.name], list(operands)
            if assigned.parameter is not None:
                left[assigned.parameter.operand] = None
            run = partial(run_site, contract, assigned)
            yield Way(site.name, name, run, (left, _first_round(held, site)))


def _in_float(contract: Contraction, operands: list[jax.Array]) -> jax.Array:
    result: jax.Array = contract(*operands)
    return result


def _first_round(tree: PyTree, site: Site) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[(0,) * len(site.loops)], tree)


def _data(contract: Contraction, place: int) -> jax.Array:
    """Random data; of a ragged product, groups of one size."""
    like: Any = contract.eqn.invars[place].aval
    if place < 2:
        return jnp.asarray(np.random.default_rng(place).normal(size=like.shape), like.dtype)
    numbers = contract.eqn.params["ragged_dot_dimension_numbers"]
    rows = contract.site.shapes[0][numbers.lhs_ragged_dimensions[0]]
    return jnp.full(like.shape, rows // like.shape[-1], like.dtype)
