"""Dynamic sparse training: a kept share that stays, kept weights that change."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim import paths
from slim.prune.evidence import Evidence
from slim.prune.masks import prunable, replace_masks
from slim.prune.ranking import keep_largest
from slim.prune.scores import Score, score_weights

PyTree = Any


class Regrow(NamedTuple):
    """Which removed weights come back when masks are renewed at an unchanged keep ratio.

    Of each tensor's kept weights the share `fraction` that `sparsify`'s score rates lowest is
    dropped, and as many of the highest `grow` score grow from 0.

    RigL (Evci et al. 2020, arXiv:1911.11134) is `Regrow(gradient_norm, 0.3, end)`; SET (Mocanu et
    al. 2018, arXiv:1707.04780) is `Regrow(random, 0.3)`. Both drop by magnitude.

    Attributes:
        grow: the score of a weight that is not there.
        fraction: the share swapped, in (0, 1); at step 0 if it decays.
        end: the step by which a half cosine takes the share to 0; None if it stays.
    """

    grow: Score
    fraction: float
    end: int | None = None

    def share(self, step: jax.Array | int) -> jax.Array:
        """The share of kept weights swapped at `step`, float32."""
        if self.end is None:
            return jnp.float32(self.fraction)
        progress = jnp.clip(jnp.asarray(step, jnp.int32), 0, self.end).astype(jnp.float32)
        return jnp.float32(self.fraction / 2) * (1 + jnp.cos(jnp.pi * progress / self.end))


def swap(mask: jax.Array, drop: jax.Array, grow: jax.Array, share: jax.Array | float) -> jax.Array:
    """Move round(share * kept) of a mask's entries from the lowest `drop` to the highest `grow`.

    A weight just dropped may grow again, as in RigL. The number kept does not change.

    >>> mask = jnp.array([True, True, False, False])
    >>> swap(mask, jnp.array([1.0, 2.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0, 3.0]), 0.5)
    Array([False,  True, False,  True], dtype=bool)
    """
    kept = jnp.sum(mask, dtype=jnp.int32)
    moved = jnp.round(jnp.asarray(share, jnp.float32) * kept.astype(jnp.float32)).astype(jnp.int32)
    (stay,) = keep_largest([drop], kept - moved, among=[mask])
    (grown,) = keep_largest([grow], moved, among=[~stay])
    return stay | grown


def regrow_masks(
    regrow: Regrow,
    masks: PyTree,
    evidence: Evidence,
    drop: Score,
    select: Sequence[tuple[str, bool]],
    step: jax.Array | int,
) -> PyTree:
    """The masks with `swap` done to every prunable tensor, as `regrow` says for `step`."""
    chosen = [path for path, yes in prunable(evidence.params, select).items() if yes]
    drop_scores = score_weights(drop, evidence, chosen)
    grow_scores = score_weights(regrow.grow, evidence, chosen)
    share = regrow.share(step)
    old = paths.flatten(masks)
    new = {p: swap(old[p], drop_scores[p], grow_scores[p], share) for p in chosen}
    return replace_masks(masks, new)
