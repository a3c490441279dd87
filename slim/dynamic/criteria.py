"""When to leave: criteria that are asked at one exit after the other.

    criterion = CRITERIA["patience"]
    state = criterion.init(2, examples)                     before the first exit
    state, leave = criterion.step(2, state, logits)         at each

A criterion has a *setting* (a threshold, a patience, a depth), given at every call as an array, so
that another one compiles nothing. A state has the examples first in every leaf, and no example's
depends on another's: they may be re-packed between exits, or joined by others. At the last exit
everyone leaves, whatever the criterion says. A new criterion is a `Criterion` and its place in
`CRITERIA`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class Criterion(NamedTuple):
    """When an example leaves.

    Attributes:
        init: (setting, numbers of the examples int32 `(batch,)`) -> state.
        step: (setting, state, logits `(batch, classes)`) -> (state, who leaves, bool `(batch,)`).
        score: logits -> how sure they are, `(batch,)` float32; those leave whose score reaches the
            setting. None of a criterion that is not such.
    """

    init: Callable[[PyTree, jax.Array], PyTree]
    step: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, jax.Array]]
    score: Callable[[jax.Array], jax.Array] | None = None


def confidence(logits: jax.Array) -> jax.Array:
    """The probability of the likeliest class: MSDNet (Huang et al. 2018, arXiv:1703.09844)."""
    return jax.nn.softmax(logits.astype(jnp.float32)).max(-1)


def certainty(logits: jax.Array) -> jax.Array:
    """1 - H(p) / log classes: 1 where one class has all, 0 where all have the same.

    BranchyNet (Teerapittayanon et al. 2016, arXiv:1709.01686), DeeBERT (arXiv:2004.12993) and
    FastBERT (arXiv:2004.02178) leave where H(p) / log classes, FastBERT's uncertainty, is low.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    entropy = jax.scipy.special.entr(probabilities).sum(-1)
    return 1 - entropy / jnp.log(jnp.float32(logits.shape[-1]))


def margin(logits: jax.Array) -> jax.Array:
    """The probability of the likeliest class less that of the second."""
    top = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), 2)[0]
    return top[..., 0] - top[..., 1]


def _threshold(score: Callable[[jax.Array], jax.Array]) -> Criterion:
    """Leave where the score is at least the setting: one for all exits, or `(exits,)`."""

    def init(setting: jax.Array, examples: jax.Array) -> jax.Array:
        return jnp.zeros(examples.shape, jnp.int32)

    def step(
        setting: jax.Array, passed: jax.Array, logits: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        setting = jnp.asarray(setting, jnp.float32)
        threshold = setting[passed] if setting.ndim else setting
        return passed + 1, score(logits) >= threshold

    return Criterion(init, step, score)


class Agreement(NamedTuple):
    """What the last exit predicted, -1 before the first, and how often in a row it was repeated."""

    prediction: jax.Array
    repeated: jax.Array


def _patience() -> Criterion:
    """Leave when the prediction has been repeated at as many exits in a row as the setting says.

    PABEE (Zhou et al. 2020, arXiv:2006.04152, eq. 1): the first exit repeats nothing.
    """

    def init(setting: jax.Array, examples: jax.Array) -> Agreement:
        return Agreement(
            jnp.full(examples.shape, -1, jnp.int32), jnp.zeros(examples.shape, jnp.int32)
        )

    def step(
        setting: jax.Array, state: Agreement, logits: jax.Array
    ) -> tuple[Agreement, jax.Array]:
        prediction = jnp.argmax(logits, -1).astype(jnp.int32)
        repeated = jnp.where(prediction == state.prediction, state.repeated + 1, 0)
        return Agreement(prediction, repeated), repeated >= setting

    return Criterion(init, step)


class Drawn(NamedTuple):
    """An example's number, and how many exits it has passed."""

    example: jax.Array
    passed: jax.Array


def _random() -> Criterion:
    """The control: leave with a probability, whatever the logits say.

    The setting is `(key, probability)`, the probability one for all exits or `(exits,)`. What an
    example does depends on the key and its number alone.
    """

    def init(setting: tuple[jax.Array, jax.Array], examples: jax.Array) -> Drawn:
        return Drawn(examples.astype(jnp.int32), jnp.zeros(examples.shape, jnp.int32))

    def step(
        setting: tuple[jax.Array, jax.Array], state: Drawn, logits: jax.Array
    ) -> tuple[Drawn, jax.Array]:
        key, probability = setting[0], jnp.asarray(setting[1], jnp.float32)

        def draw(example: jax.Array, passed: jax.Array) -> jax.Array:
            return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, example), passed))

        drawn = jax.vmap(draw)(state.example, state.passed)
        least = probability[state.passed] if probability.ndim else probability
        return Drawn(state.example, state.passed + 1), drawn < least

    return Criterion(init, step)


class Planned(NamedTuple):
    """At which exit an example leaves, and how many it has passed."""

    exit: jax.Array
    passed: jax.Array


def _fixed() -> Criterion:
    """Leave at the exit that the setting says, from 0: one for all, or one by example's number.

    The latter is depth chosen before computing (`slim.dynamic.planner`).
    """

    def init(setting: jax.Array, examples: jax.Array) -> Planned:
        setting = jnp.asarray(setting, jnp.int32)
        chosen = setting[examples] if setting.ndim else jnp.broadcast_to(setting, examples.shape)
        return Planned(chosen, jnp.zeros(examples.shape, jnp.int32))

    def step(setting: jax.Array, state: Planned, logits: jax.Array) -> tuple[Planned, jax.Array]:
        return Planned(state.exit, state.passed + 1), state.passed >= state.exit

    return Criterion(init, step)


CRITERIA: Mapping[str, Criterion] = {
    "confidence": _threshold(confidence),
    "entropy": _threshold(certainty),
    "margin": _threshold(margin),
    "patience": _patience(),
    "random": _random(),
    "fixed": _fixed(),
}
"""By name; the first three are also the learned ones, with settings from `fit_thresholds`."""
