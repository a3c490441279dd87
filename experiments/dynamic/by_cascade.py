"""The dual model: a light network answers, the full one where it is unsure."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import jax
import numpy as np
from pydantic import JsonValue

from experiments.dynamic.batches import straight
from experiments.dynamic.by_criterion import candidates
from experiments.dynamic.method import Bucketwise, Pair, Ran, Taken, shown
from experiments.dynamic.subject import Bucket
from slim.dynamic import Rule, fit_rule
from slim.dynamic.cascade import defers

_defers = jax.jit(defers)


@dataclasses.dataclass(frozen=True, eq=False)
class ByCascade(Bucketwise):
    """The rule and the temperature are fitted on one half, for the other.

    Those who leave at exit 0 have the light network's answer, at exit 1 the full one's.

    Attributes:
        subject: what is tried; with a light network.
    """

    def choose(self, tolerance: float) -> Pair:
        """See `Method`."""
        subject = self.subject

        def on(rows: np.ndarray) -> Rule:
            light, full = subject.light_logits[rows], subject.full_logits[rows]
            return fit_rule(light, full, subject.labels[rows], tolerance=tolerance)

        return on(subject.fitted_on(0)), on(subject.fitted_on(1))

    def taken(self, pair: Pair) -> Taken:
        """See `Method`."""
        subject = self.subject
        deferred = self._deferred(pair, subject.half, subject.light_logits)
        logits = np.where(deferred[:, None], subject.full_logits, subject.light_logits)
        light, full = self._macs
        return Taken(deferred.astype(np.int32), logits, light + deferred * full)

    def sweep(self) -> Iterator[Taken]:
        """See `Method`: over thresholds, at the temperatures of no tolerance."""
        temperatures = [rule.temperature for rule in self.choose(0.0)]
        for threshold in candidates("confidence", 2):
            first, second = (Rule(threshold, each) for each in temperatures)
            yield self.taken((first, second))

    def answers(self) -> np.ndarray:
        """See `Method`."""
        return np.stack([self.subject.light_logits, self.subject.full_logits])

    def show(self, setting: Rule) -> JsonValue:
        """See `Method`."""
        return {
            "threshold": shown(float(setting.threshold)),
            "temperature": shown(float(setting.temperature)),
        }

    def run_bucket(self, pair: Pair, bucket: Bucket, sizes: Sequence[int]) -> Ran:
        """See `Bucketwise`."""
        light, full = self._programs
        subject = self.subject
        assert subject.light is not None
        logits = straight(light, subject.light.variables, bucket.inputs, sizes)
        deferred = self._deferred(pair, subject.half[bucket.numbers], logits)
        if deferred.any():
            inputs = bucket.inputs[deferred]
            logits[deferred] = straight(full, subject.full.variables, inputs, sizes)
        return deferred.astype(np.int32), logits

    def _deferred(self, pair: Pair, half: np.ndarray, logits: np.ndarray) -> np.ndarray:
        both = [np.asarray(_defers(rule, logits)) for rule in pair]
        return np.where(half == 0, *both)

    @cached_property
    def _macs(self) -> tuple[np.ndarray, np.ndarray]:
        subject = self.subject
        assert subject.light is not None
        return subject.net_macs(subject.light), subject.net_macs(subject.full)

    @cached_property
    def _programs(self) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
        assert self.subject.light is not None
        return jax.jit(self.subject.light.fn), jax.jit(self.subject.full.fn)
