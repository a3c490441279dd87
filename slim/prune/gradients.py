"""Evidence from gradients, over several batches."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from slim.prune.evidence import Evidence

PyTree = Any


def measure_gradients(
    loss: Callable[[PyTree, Any], jax.Array], params: PyTree, batches: Iterable[Any]
) -> Evidence:
    """The mean gradient and the mean squared gradient of each parameter over batches.

    Args:
        loss: (params, batch) -> scalar, the mean over the batch.
        params: floating-point arrays.
        batches: of one shape, or the loss compiles once for each. Batches of one example give the
            empirical Fisher diagonal; larger ones a smaller, cheaper estimate of it.

    Raises:
        ValueError: no batch.

    >>> evidence = measure_gradients(lambda w, x: w @ x, jnp.ones(2), jnp.eye(2))
    >>> evidence.grads, evidence.squared_grads
    (Array([0.5, 0.5], dtype=float32), Array([0.5, 0.5], dtype=float32))
    """

    @jax.jit
    def add(sums: tuple[PyTree, PyTree], batch: Any) -> tuple[PyTree, PyTree]:
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), jax.grad(loss)(params, batch))
        return (
            jax.tree.map(jnp.add, sums[0], grads),
            jax.tree.map(lambda total, g: total + jnp.square(g), sums[1], grads),
        )

    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)
    sums, count = (zeros, zeros), 0
    for batch in batches:
        sums, count = add(sums, batch), count + 1
    if not count:
        raise ValueError("batches is empty: gradients need at least one batch")
    grads, squared = jax.tree.map(lambda total: total / count, sums)
    return Evidence(params, grads=grads, squared_grads=squared)
