"""Erdos-Renyi-Kernel densities (Evci et al. 2020, arXiv:1911.11134; Mocanu et al. 2018)."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from slim.prune.ranking import keep_largest_of_each
from slim.prune.ratio import check_keep, kept_count


def erk(
    scores: Mapping[str, jax.Array],
    shapes: Mapping[str, tuple[int, ...]],
    keep: jax.Array | float,
) -> dict[str, jax.Array]:
    """Of each tensor the highest scores, at its Erdos-Renyi-Kernel density."""
    check_keep(keep)
    densities = erk_densities(shapes, keep)
    counts = [kept_count(densities[path], values.size) for path, values in scores.items()]
    masks = keep_largest_of_each(list(scores.values()), counts)
    return dict(zip(scores, masks, strict=True))


def erk_densities(
    shapes: Mapping[str, tuple[int, ...]], keep: jax.Array | float
) -> dict[str, jax.Array]:
    """Density of each tensor: min(1, eps * sum(shape) / prod(shape)).

    eps is the one number for which the whole network keeps the share `keep`. A convolution's
    (height, width, inputs, outputs) all count in the sum; small tensors stay denser than large.

    >>> sizes = {"a": (10, 10), "b": (100, 10)}
    >>> {path: round(float(d), 3) for path, d in erk_densities(sizes, 0.2).items()}
    {'a': 0.338, 'b': 0.186}
    """
    sizes = np.array([math.prod(shape) for shape in shapes.values()], np.float64)
    raw = np.array([sum(shape) for shape in shapes.values()], np.float64) / sizes
    # The tensors of highest raw density saturate at 1 first, in an order known beforehand; with the
    # first j dense, eps[j] is what the others need. The fewest dense tensors that leave no other
    # above 1 is the answer: all candidates at once, so that `keep` may be traced.
    order = np.argsort(-raw, kind="stable")
    dense = np.concatenate([[0.0], np.cumsum(sizes[order])[:-1]])
    spread = np.cumsum((raw * sizes)[order][::-1])[::-1]
    # eps[j] = (keep * total - dense) / spread, with the constants combined in float64.
    total = sizes.sum()
    slope, offset = (jnp.asarray(x, jnp.float32) for x in (total / spread, dense / spread))
    keep = jnp.asarray(keep, jnp.float32)
    eps = keep * slope - offset
    fits = eps * jnp.asarray(raw[order], jnp.float32) <= 1
    first = jnp.where(fits.any(), jnp.argmax(fits), len(sizes) - 1)
    densities = jnp.clip(eps[first] * jnp.asarray(raw, jnp.float32), 0, 1)
    densities = jnp.where(keep >= 1, 1.0, densities)
    return {path: densities[i] for i, path in enumerate(shapes)}
