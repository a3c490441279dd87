"""One ranking over all tensors, one for each, or one for each output unit."""

from collections.abc import Mapping

import jax

from slim.prune.ranking import keep_largest, keep_largest_of_each
from slim.prune.ratio import check_keep, kept_count


def uniform(
    scores: Mapping[str, jax.Array],
    shapes: Mapping[str, tuple[int, ...]],
    keep: jax.Array | float,
) -> dict[str, jax.Array]:
    """The round(keep * n) highest of each tensor's n scores."""
    del shapes
    check_keep(keep)
    counts = [kept_count(keep, values.size) for values in scores.values()]
    masks = keep_largest_of_each(list(scores.values()), counts)
    return dict(zip(scores, masks, strict=True))


def global_(
    scores: Mapping[str, jax.Array],
    shapes: Mapping[str, tuple[int, ...]],
    keep: jax.Array | float,
) -> dict[str, jax.Array]:
    """The round(keep * n) highest of all n scores together."""
    del shapes
    check_keep(keep)
    total = sum(values.size for values in scores.values())
    masks = keep_largest(list(scores.values()), kept_count(keep, total))
    return dict(zip(scores, masks, strict=True))


def per_output(
    scores: Mapping[str, jax.Array],
    shapes: Mapping[str, tuple[int, ...]],
    keep: jax.Array | float,
) -> dict[str, jax.Array]:
    """The round(keep * n) highest of each output unit's n scores, outputs being the last axis.

    What Wanda's scores are compared within (Sun et al. 2024, arXiv:2306.11695).
    """
    del shapes
    check_keep(keep)

    def within_outputs(values: jax.Array) -> jax.Array:
        count = kept_count(keep, values.size // values.shape[-1])
        rank = jax.vmap(lambda row: keep_largest([row], count)[0], in_axes=-1, out_axes=-1)
        return rank(values)

    return {path: within_outputs(values) for path, values in scores.items()}
