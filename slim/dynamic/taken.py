"""Training that moves only the parameters on the path that was taken."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from slim import paths

PyTree = Any


def only_taken(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Leaves out the parameters whose gradient is 0 throughout, as of layers that were not run.

    They and their entries of the optimizer's state (momentum, second moments) stay as they are: no
    decay, no momentum of earlier steps. The path is that of a whole step: where examples of a batch
    take different ones, a parameter moves if one of them needs it.

    >>> sgd = only_taken(optax.sgd(1.0, momentum=0.9))
    >>> params = {"near": jnp.ones(2), "far": jnp.ones(2)}
    >>> state = sgd.init(params)
    >>> for near, far in ((1.0, 1.0), (1.0, 0.0)):
    ...     grads = {"near": jnp.full(2, near), "far": jnp.full(2, far)}
    ...     updates, state = sgd.update(grads, state, params)
    >>> updates["far"].tolist(), [round(float(u), 2) for u in updates["near"]]
    ([0.0, 0.0], [-1.9, -1.9])
    """

    def update(
        grads: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        taken = jax.tree.map(lambda g: jnp.any(g != 0), grads)
        updates, moved = optimizer.update(grads, state, params)
        updates = jax.tree.map(lambda t, u: jnp.where(t, u, jnp.zeros_like(u)), taken, updates)
        by_path = paths.flatten(taken)

        def kept(path: str, new: jax.Array, old: jax.Array) -> jax.Array:
            own = _parameter(path, by_path)
            return new if own is None else jnp.where(by_path[own], new, old)

        return updates, paths.map_with_path(kept, moved, state)

    return optax.GradientTransformation(optimizer.init, update)


def _parameter(path: str, known: Mapping[str, Any]) -> str | None:
    """The parameter that an entry of the state is of: the one whose path its own ends in."""
    parts = path.split("/")
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((ending for ending in endings if ending in known), None)
