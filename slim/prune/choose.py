"""From evidence to masks: score, distribution and structure put together."""

from collections.abc import Sequence
from typing import Any

import jax

from slim.prune.distributions import Distribution, global_
from slim.prune.evidence import Evidence
from slim.prune.masks import full_masks, prunable, replace_masks
from slim.prune.ratio import check_keep
from slim.prune.scores import SCORES, Score, score_weights
from slim.prune.structures import Structure, unstructured

PyTree = Any


def choose_masks(
    evidence: Evidence,
    keep: jax.Array | float,
    *,
    score: Score = SCORES["l2"],
    distribution: Distribution = global_,
    structure: Structure = unstructured,
    select: Sequence[tuple[str, bool]] = (),
) -> PyTree:
    """Masks that keep the share `keep` of the prunable weights, those that score highest.

    Runs under `jit`; `keep` may be traced, so one compilation serves every ratio.

    Args:
        evidence: the parameters and what was measured about them.
        keep: share of the prunable weights to keep, in (0, 1].
        score: what a weight is worth, from `SCORES`.
        distribution: how the ratio is spread over the tensors, from `DISTRIBUTIONS`.
        structure: what is kept or removed together, from `STRUCTURES`.
        select: (path pattern, whether to prune) rules; see `prunable`.

    Returns:
        bool arrays in the structure and shapes of the parameters; True, kept, for all that may not
        be pruned.

    Raises:
        ValueError: `keep` outside (0, 1], NaN scores (both seen only outside `jit`), a rule that
            decides nothing, evidence that the score needs missing.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.array([[1.0, -4.0], [3.0, 2.0]]), "bias": jnp.zeros(2)}
    >>> choose_masks(Evidence(params), 0.5)["kernel"]
    Array([[False,  True],
           [ True, False]], dtype=bool)
    """
    check_keep(keep)
    chosen = [path for path, yes in prunable(evidence.params, select).items() if yes]
    scores = score_weights(score, evidence, chosen)
    return replace_masks(full_masks(evidence.params), structure(scores, keep, distribution))
