"""Widths that meet a latency on this device: a table of timed widths, and the clock on its choice.

A table takes the groups' savings to add up, but a product of two cut axes saves less than the sum
of the cuts; so the chosen network is timed too, and asked to be faster until it is fast enough.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np

from experiments import cuts, processes
from experiments.network import Network, Variables
from experiments.stages.stage import Context
from experiments.timing import in_turn
from slim.graph import Graph, Plan
from slim.prune import LatencyTable, Limits, fit_latency, measure_latency, plan_widths

LOG = logging.getLogger("slim")

FILE = "latency.json"

CORRECTIONS = 8
NOISE = 1.02
"""Two measurements of one program differ by so much."""


def fit_widths(
    context: Context,
    network: Network,
    variables: Variables,
    traced: Graph,
    scores: Mapping[str, np.ndarray],
    keep_ratio: float,
    *,
    batch: int,
    rounds: int,
    keeps: Sequence[float],
    limits: Sequence[tuple[str, Limits]],
    default: Limits,
) -> dict[str, int]:
    """The widths that keep the most score at a share of the latency; leaves `latency.json`.

    Args:
        context: the stage's.
        network: the model's.
        variables: the model's.
        traced: the network's graph.
        scores: of the groups' units, comparable between groups.
        keep_ratio: the share.
        batch: examples in a call.
        rounds: samples of each latency.
        keeps: of each group, the shares of its units that it alone is timed at.
        limits: (group name pattern, limits) rules.
        default: the limits of the other groups.

    Raises:
        ValueError: no widths that were timed are that fast.
    """
    sizes = {name: values.size for name, values in scores.items()}
    clock = _clock(network, variables, batch, rounds)
    table = measure_latency(traced, sizes, clock, keeps=keeps, limits=limits, default=default)
    if jax.process_index() == 0:
        (context.directory / FILE).write_text(table.to_json())
    target = asked = keep_ratio * table.baseline
    for _ in range(CORRECTIONS):
        widths = fit_latency(scores, table, asked)
        seconds = clock(plan_widths(traced, scores, widths))
        _log(context.name, table, widths, seconds, batch)
        if seconds <= NOISE * target:
            break
        asked = table(widths) - (seconds - target)
    return widths


def _log(
    name: str, table: LatencyTable, widths: Mapping[str, int], seconds: float, batch: int
) -> None:
    LOG.info(
        "%s: %.3g ms for a batch of %d, %.0f%% of %.3g ms; the table foretold %.3g ms",
        name,
        1e3 * seconds,
        batch,
        100 * seconds / table.baseline,
        1e3 * table.baseline,
        1e3 * table(widths),
    )


def _clock(
    network: Network, variables: Variables, batch: int, rounds: int
) -> Callable[[Plan], float]:
    """Plan -> seconds of a compiled call of the small network on one device.

    Each is timed in turn with the whole network, whose latency was taken once, so that a slow
    minute makes no width slow.
    """
    device = jax.local_devices()[0]
    variables = jax.device_put(jax.device_get(variables), device)
    inputs = jax.device_put(network.sample(batch), device)

    def compiled(network: Network, variables: Variables) -> Callable[[], jax.Array]:
        program = jax.jit(network.predict).lower(variables, inputs).compile()
        return partial(program, variables, inputs)

    whole = compiled(network, variables)
    baseline = in_turn({"whole": whole}, rounds=rounds)["whole"].median_s

    def seconds(plan: Plan) -> float:
        if not plan.keep:
            return _agreed(baseline)
        small = compiled(network.shrunk([plan]), cuts.shrink(plan, variables))
        times = in_turn({"whole": whole, "small": small}, rounds=rounds)
        return _agreed(baseline * times["small"].ratio(times["whole"]))

    return seconds


def _agreed(seconds: float) -> float:
    """The first process's, to 10 ns: all processes must choose the same widths."""
    return processes.from_first(round(1e8 * seconds)) / 1e8
