"""Early exit's time beside what leaving where one does must cost: on MiniLM, exits being given.

    python -m experiments.bench.dynamic

Of each distribution of exits the time of `slim.dynamic.Batched` for all examples, end to end, over
the ideal: the sum over depths of the examples that leave there, times what an example takes in a
compiled function of that depth, without a stop, in full batches. All are timed in turn. Likewise
for texts of several lengths, run bucket by bucket; and one by one, `conditional` beside the
function of the example's depth.

The network is MiniLM-L6 with five exits of BERT's own form beside its classifier, of random
weights: where examples leave is given (`CRITERIA["fixed"]`), and time depends on nothing else.
About 10 minutes on 2 quiet cores; on busy ones no time here means much.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.record import Row, record
from experiments.dynamic.batches import straight
from experiments.timing import Latency, in_turn
from slim import models
from slim.dynamic import CRITERIA, Batched, ExitPlan, conditional
from slim.dynamic.exit_plan import with_fresh
from slim.graph import Segments, match, split_outputs, trace

PyTree = Any

GOAL = "<= 1.15"
BATCH = 32
SIZES = (4, 8, 16, BATCH)
LENGTH = 32
EXAMPLES = 512
LENGTHS = (16, 24, 32, 48, 64)
ROUNDS = 9
FULL_BATCHES = 2  # in a sample of the time of each depth

DISTRIBUTIONS: Mapping[str, Sequence[float]] = {
    "half at each exit": (32, 16, 8, 4, 2, 2),
    "even": (1, 1, 1, 1, 1, 1),
    "most late": (1, 1, 2, 4, 8, 16),
    "first or last": (1, 0, 0, 0, 0, 1),
}
"""How many examples leave at each exit, as far as they go."""


class Network(NamedTuple):
    """A network with exits in parts, its variables, and functions of each depth.

    Attributes:
        segments: of `fn(variables, ids)` -> the logits of all exits.
        variables: of random weights.
        depths: compiled, `fn(variables, ids)` -> the logits of one exit.
    """

    segments: Segments
    variables: PyTree
    depths: tuple[Callable[..., jax.Array], ...]


def network(size: str = "minilm_l6") -> Network:
    """A BERT for two classes with an exit after each layer."""
    module = models.create("bert", num_classes=2, size=size)
    ids = jnp.ones((1, LENGTH), jnp.int32)
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), ids)
    graph = trace(partial(module.apply, train=False), variables, ids)
    names = match(graph, "*/attention/*:block")[1:]
    plan = ExitPlan(tuple(names), 2, "first", pooler=True)
    variables = with_fresh(variables, plan.init(graph, jax.random.key(1)))
    segments = split_outputs(trace(plan.on(graph), variables, ids))

    def upto(exit: int) -> Callable[..., jax.Array]:
        def fn(variables: PyTree, ids: jax.Array) -> jax.Array:
            carried = segments.enter(ids)
            for part in segments.at(variables, ids)[: exit + 1]:
                logits, carried = part(variables, carried)
            return logits

        return jax.jit(fn)

    return Network(segments, variables, tuple(upto(i) for i in range(len(names) + 1)))


def given(shares: Sequence[float], count: int) -> np.ndarray:
    """The exits of `count` examples, in shares as given, in a fixed random order: int32.

    >>> np.bincount(given((2, 1, 1), 8)).tolist()
    [4, 2, 2]
    """
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * count).astype(int)
    exits = np.searchsorted(ends, np.arange(count), side="right")
    return np.random.default_rng(0).permutation(exits).astype(np.int32)


def texts(count: int, length: int) -> np.ndarray:
    """Random ids, no padding."""
    rng = np.random.default_rng(length)
    return rng.integers(1, 20, (count, length)).astype(np.int32)


def batched_rows(
    net: Network,
    *,
    examples: int = EXAMPLES,
    lengths: Sequence[int] = LENGTHS,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Of each distribution at one length, and of the even one at several."""
    executor = Batched(net.segments, CRITERIA["fixed"], SIZES)
    calls: dict[Any, Callable[[], Any]] = {}
    ideals: dict[str, dict[Any, float]] = {}
    for name, shares in DISTRIBUTIONS.items():
        exits, ids = given(shares, examples), texts(examples, LENGTH)
        calls[name] = partial(executor, net.variables, exits, ids)
        ideals[name] = _counts({LENGTH: exits})
    each = {n: given(DISTRIBUTIONS["even"], examples // len(lengths)) for n in lengths}
    mixed = f"even, lengths {', '.join(map(str, lengths))}"
    calls[mixed] = lambda: [
        executor(net.variables, exits, texts_of[n])[0] for n, exits in each.items()
    ]
    texts_of = {n: texts(len(exits), n) for n, exits in each.items()}
    ideals[mixed] = _counts(each)
    for length in {LENGTH, *lengths}:
        ids = texts(FULL_BATCHES * BATCH, length)
        for depth, fn in enumerate(net.depths):
            calls[length, depth] = partial(straight, fn, net.variables, ids, (BATCH,))
    times = in_turn(calls, warmup=1, rounds=rounds)
    return [
        _row(name, times[name], _ideal(counts, times), "" if name == mixed else GOAL)
        for name, counts in ideals.items()
    ]


def single_row(net: Network, *, rounds: int = ROUNDS, repeats: int = 4) -> Row:
    """One example at a time, as many at each exit."""
    run = jax.jit(conditional(net.segments, CRITERIA["fixed"]))
    ids = texts(1, LENGTH)
    exits = [np.int32(exit) for exit in range(len(net.depths))] * repeats
    calls = {
        "ours": lambda: [
            jax.block_until_ready(run(net.variables, exit, ids).logits) for exit in exits
        ],
        "ideal": lambda: [
            jax.block_until_ready(net.depths[exit](net.variables, ids)) for exit in exits
        ],
    }
    times = in_turn(calls, warmup=1, rounds=rounds)
    return _row("one by one, even", times["ours"], times["ideal"], "")


def _counts(exits: Mapping[int, np.ndarray]) -> dict[Any, float]:
    """How many examples there are of each length and exit."""
    return {
        (length, depth): float(count)
        for length, each in exits.items()
        for depth, count in enumerate(np.bincount(each))
        if count
    }


def _ideal(counts: Mapping[Any, float], times: Mapping[Any, Latency]) -> Latency:
    """Round by round the sum of the examples' own times."""
    samples = sum(
        count / (FULL_BATCHES * BATCH) * np.asarray(times[key].samples_s)
        for key, count in counts.items()
    )
    return Latency(tuple(np.asarray(samples).tolist()), 1)


def _row(name: str, ours: Latency, ideal: Latency, goal: str) -> Row:
    return Row(
        f"{name}: early exit over the ideal",
        1e3 * ours.median_s,
        1e3 * ideal.median_s,
        goal,
        "ms",
        ours.ratio(ideal),
    )


def main() -> None:
    """Measures and records the rows."""
    net = network()
    record("dynamic", [*batched_rows(net), single_row(net)])


if __name__ == "__main__":
    main()
