"""Every way at every tolerance: what it loses, and its time beside the full network's, in turn."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.dynamic.batches import straight
from experiments.dynamic.crossed import HALVES_SEED
from experiments.dynamic.method import Method, Pair, Ran, Taken
from experiments.dynamic.subject import Subject
from experiments.report.dynamic import Dynamic, Tried, Way
from experiments.timing import Latency, in_turn

LOG = logging.getLogger("slim")

FULL = ""
"""Among the timed calls."""


def try_all(
    subject: Subject,
    methods: Mapping[str, Method],
    tolerances: Sequence[float],
    *,
    singles: int,
    rounds: int,
) -> Dynamic:
    """The record.

    Args:
        subject: networks and examples.
        methods: by name.
        tolerances: what may be lost.
        singles: how many examples are timed one by one.
        rounds: samples of each time.
    """
    chosen = {
        name: [method.choose(each) for each in tolerances] for name, method in methods.items()
    }
    numbers = np.sort(np.random.default_rng(0).permutation(len(subject.labels))[:singles])
    calls: dict[str, Callable[[], Any]] = {FULL: _full(subject)}
    ones: dict[str, Callable[[], Any]] = {FULL: _full_single(subject, numbers)}
    left: dict[str, Ran] = {}
    for name, method in methods.items():
        for pair in chosen[name]:
            key = _key(name, method, pair)
            if key not in calls:
                calls[key] = _kept(left, key, method.run(pair))
                ones[key] = method.single(pair, numbers)
    LOG.info("%d settings are timed, in batches and one by one", len(calls) - 1)
    batched, single = (in_turn(each, warmup=1, rounds=rounds) for each in (calls, ones))

    def way(name: str, method: Method) -> Way:
        tried = []
        for tolerance, pair in zip(tolerances, chosen[name], strict=True):
            key = _key(name, method, pair)
            taken = method.taken(pair)
            tried.append(
                Tried(
                    tolerance=tolerance,
                    settings=_shown(method, pair),
                    **_quality(subject, method, taken),
                    **_times(batched, single, key),
                    as_foretold=float((left[key][0] == taken.exit).mean()),
                )
            )
        sweep = list(method.sweep())
        return Way(
            tried=tuple(tried),
            curve_macs=tuple(float(each.macs.mean()) for each in sweep),
            curve_accuracy=tuple(float(subject.right(each.logits).mean()) for each in sweep),
        )

    return Dynamic(
        model=subject.model.name,
        full=subject.full.name,
        light="" if subject.light is None else subject.light.name,
        examples=len(subject.labels),
        halves_seed=HALVES_SEED,
        sizes=subject.sizes,
        singles=len(numbers),
        accuracy=float(subject.right(subject.full_logits).mean()),
        macs=float(subject.net_macs(subject.full).mean()),
        seconds=batched[FULL].median_s,
        exit_accuracy=tuple(subject.right(subject.logits).mean(1).tolist()),
        exit_macs=tuple(subject.macs.mean(1).tolist()),
        ways={name: way(name, method) for name, method in methods.items()},
    )


def _quality(subject: Subject, method: Method, taken: Taken) -> dict[str, Any]:
    answers = subject.right(method.answers()).mean(1)
    shares = np.bincount(taken.exit, minlength=len(answers)) / len(taken.exit)
    accuracy = float(subject.right(taken.logits).mean())
    return {
        "accuracy": accuracy,
        "lost": float(subject.right(subject.full_logits).mean()) - accuracy,
        "at_random": float(shares @ answers),
        "macs": float(taken.macs.mean()),
        "shares": tuple(shares.tolist()),
    }


def _times(
    batched: Mapping[str, Latency], single: Mapping[str, Latency], key: str
) -> dict[str, Any]:
    return {
        "seconds": batched[key].median_s,
        "time_ratio": batched[key].ratio(batched[FULL]),
        "single_time_ratio": single[key].ratio(single[FULL]),
    }


def _full(subject: Subject) -> Callable[[], Any]:
    """The full network on all examples, in the same batches."""
    program, full = jax.jit(subject.full.fn), subject.full
    return lambda: [
        straight(program, full.variables, bucket.inputs, subject.sizes)
        for bucket in subject.buckets
    ]


def _full_single(subject: Subject, numbers: np.ndarray) -> Callable[[], Any]:
    program, full = jax.jit(subject.full.fn), subject.full
    ones = subject.one_by_one(numbers)
    return lambda: [straight(program, full.variables, one.inputs, (1,)) for one in ones]


def _kept(left: dict[str, Ran], key: str, call: Callable[[], Ran]) -> Callable[[], Ran]:
    """The call, whose last results are in `left`."""

    def run() -> Ran:
        left[key] = call()
        return left[key]

    return run


def _shown(method: Method, pair: Pair) -> tuple[Any, Any]:
    return method.show(pair[0]), method.show(pair[1])


def _key(name: str, method: Method, pair: Pair) -> str:
    """Equal settings are timed once."""
    return f"{name} {json.dumps(_shown(method, pair))}"
