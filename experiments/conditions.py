"""What a model is tried under besides clean images: attacks by its own gradients, corruptions."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from slim.measure.attacks import ATTACKS, Attack, pgd
from slim.measure.corruptions import CORRUPTIONS, Corruption

PyTree = Any
Predict = Callable[[PyTree, jax.Array], jax.Array]
Condition = Callable[[PyTree, jax.Array, jax.Array, jax.Array], jax.Array]
"""`(variables, key, images, labels) -> images` changed."""


class Tried(Protocol):
    """The fields of `EvaluateConfig` that are read here."""

    attacks: tuple[str, ...]
    epsilons: tuple[float, ...]
    pgd_steps: int
    corruptions: tuple[str, ...]
    severity: int


def changes(predict: Predict, config: Tried) -> dict[str, Condition]:
    """The changes to images that a model is tried under, by their name in `Measures.robustness`."""

    def corrupted(change: Corruption) -> Condition:
        jitted = jax.jit(change, static_argnums=2)
        return lambda variables, key, images, labels: jitted(key, images, config.severity)

    def attacked(attack: Attack, epsilon: float) -> Condition:
        return lambda variables, key, images, labels: _attack(
            predict, attack, variables, key, images, labels, jnp.float32(epsilon / 255)
        )

    settings = {"pgd": _pgd(config.pgd_steps)}
    conditions: dict[str, Condition] = {"clean": lambda variables, key, images, labels: images}
    for name in config.attacks:
        attack = settings.get(name, ATTACKS[name])
        for epsilon in config.epsilons:
            conditions[f"{name}@{epsilon:g}/255"] = attacked(attack, epsilon)
    for name in config.corruptions:
        conditions[f"{name}@{config.severity}"] = corrupted(CORRUPTIONS[name])
    return conditions


@cache
def _pgd(steps: int) -> Attack:
    """PGD of so many steps; one object, so that a later `measure` meets the compiled program."""
    return partial(pgd, steps=steps)


@partial(jax.jit, static_argnums=(0, 1))
def _attack(predict: Predict, attack: Attack, variables: PyTree, *args: jax.Array) -> jax.Array:
    """`attack` on the model `predict(variables, .)`."""
    return attack(partial(predict, variables), *args)
