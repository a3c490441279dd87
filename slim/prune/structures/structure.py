"""What a structure is, and the plainest one."""

from collections.abc import Callable, Mapping

import jax

from slim.prune.distributions import Distribution

Structure = Callable[
    [Mapping[str, jax.Array], jax.Array | float, Distribution],
    dict[str, jax.Array],
]


def unstructured(
    scores: Mapping[str, jax.Array], keep: jax.Array | float, distribution: Distribution
) -> dict[str, jax.Array]:
    """Every weight for itself."""
    return distribution(scores, {path: values.shape for path, values in scores.items()}, keep)
