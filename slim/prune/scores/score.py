"""What a score is: non-negative numbers, higher means keep, for weights and for whole units."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from slim.prune.evidence import Evidence, Leaf, is_kernel, leaves


@dataclass(frozen=True)
class Score:
    """How much a weight, or a unit with all its weights, is worth keeping.

    A unit's score is `finish(*terms)`, where each term was summed over all the tensors that the
    unit has weights in: that is what makes one number of a channel's kernel rows, its consumer's
    columns and its batch-norm scale.

    Attributes:
        name: its name in `SCORES`.
        needs: the fields of `Evidence` it reads, beside `params`.
        terms: of a leaf seen as (units, weights per unit), the sums to add up over tensors, each
            with the units as its first axis.
        finish: from the summed terms to (units,) scores.
        weights: of a leaf, scores in the weight's shape; None if the score only rates units.
        counts: (path, parameter) -> whether the tensor is part of its units' terms.
    """

    name: str
    needs: tuple[str, ...]
    terms: Callable[[Leaf], tuple[jax.Array, ...]]
    finish: Callable[..., jax.Array]
    weights: Callable[[Leaf], jax.Array] | None
    counts: Callable[[str, Any], bool] = is_kernel


def additive(
    name: str,
    contribution: Callable[[Leaf], jax.Array],
    finish: Callable[[jax.Array], jax.Array],
    needs: tuple[str, ...] = (),
) -> Score:
    """A score that is `finish` of a sum of one contribution per weight, over one weight or many."""
    return Score(
        name=name,
        needs=needs,
        terms=lambda leaf: (contribution(leaf).sum(axis=1),),
        finish=finish,
        weights=lambda leaf: finish(contribution(leaf)),
    )


def score_weights(score: Score, evidence: Evidence, chosen: Iterable[str]) -> dict[str, jax.Array]:
    """The score of every weight of the chosen tensors: path to float32 array, non-negative.

    Raises:
        ValueError: the score rates only units; the evidence lacks something; a score is NaN (seen
            only outside `jit`).

    >>> from slim.prune import SCORES
    >>> params = {"kernel": jnp.array([[1.0, -3.0]])}
    >>> score_weights(SCORES["l1"], Evidence(params), ["kernel"])
    {'kernel': Array([[1., 3.]], dtype=float32)}
    """
    if score.weights is None:
        raise ValueError(
            f"score {score.name!r} rates whole units (channels, heads), not single weights: "
            "use it for structured pruning, or choose another score"
        )
    found = leaves(evidence, chosen, needs=score.needs, by=score.name)
    scores = {path: score.weights(leaf) for path, leaf in found.items()}
    for path, values in scores.items():
        check_finite(values, f"score {score.name!r} of {path!r}")
    return scores


def check_finite(values: jax.Array, what: str) -> None:
    """Raise ValueError if concrete `values` hold a NaN; traced values pass unseen."""
    if isinstance(values, jax.core.Tracer):
        return
    bad = int(jnp.isnan(values).sum())
    if bad:
        raise ValueError(
            f"{what} is NaN at {bad} of {values.size} places: its weights or gradients are not "
            "finite; go back to a checkpoint where they are"
        )
