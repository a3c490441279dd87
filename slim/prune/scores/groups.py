"""Scores of a group's units, from every tensor that the group runs through."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from slim import paths
from slim.graph import Group, Member
from slim.prune.evidence import Evidence, Leaf, leaves
from slim.prune.normalisations import Normalisation, none
from slim.prune.scores.score import Score, check_finite


def score_groups(
    score: Score,
    evidence: Evidence,
    groups: Iterable[Group],
    *,
    normalisation: Normalisation = none,
) -> dict[str, jax.Array]:
    """The score of every unit of every group, by the group's name: (size,) float32, non-negative.

    A unit's terms are summed over the group's members that the score counts (kernels, for most)
    and has evidence about.

    Args:
        score: any of `SCORES`.
        evidence: trees with the paths of the parameters that the graph was traced with.
        groups: from `slim.graph.groups`.
        normalisation: what makes groups comparable, from `NORMALISATIONS`.

    Raises:
        ValueError: a group without a member that the score can rate; a NaN (outside `jit`).

    >>> from slim.graph import groups, trace
    >>> from slim.prune import SCORES
    >>> params = {"up": jnp.array([[3.0, 0.0]]), "down": jnp.array([[4.0], [1.0]])}
    >>> graph = trace(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params, jnp.ones((5, 1)))
    >>> score_groups(SCORES["l2"], Evidence(params), groups(graph))
    {'up:1': Array([5., 1.], dtype=float32)}
    """
    groups = list(groups)
    weights = paths.flatten(evidence.params)
    trees = [paths.flatten(getattr(evidence, need)) for need in score.needs if need != "key"]

    def rated(member: Member) -> bool:
        if member.path not in weights or not score.counts(member.path, weights[member.path]):
            return False
        # Zero fractions are of a kernel's inputs: of the units that it makes they tell nothing.
        if "zero_fractions" in score.needs:
            return member.path in trees[0] and trees[0][member.path].shape[member.dim] > 1
        return all(member.path in tree for tree in trees)

    members = {group.name: [m for m in group.members if rated(m)] for group in groups}
    for group in groups:
        if not members[group.name]:
            needed = ", ".join(score.needs) or "parameters of other names"
            raise ValueError(
                f"score {score.name!r} finds nothing to rate in group {group.name!r} of "
                f"{', '.join(m.path for m in group.members)}: it needs {needed}, which differ "
                "between its units; leave the group out, measure more, or choose another score"
            )
    chosen = dict.fromkeys(m.path for each in members.values() for m in each)
    known = leaves(evidence, chosen, needs=score.needs, by=score.name)

    def rate(known: dict[str, Leaf]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        scores = {}
        for name, each in members.items():
            terms = [score.terms(_by_unit(known[member.path], member)) for member in each]
            sums = [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]
            scores[name] = score.finish(*sums)
        return scores, {name: normalisation(values) for name, values in scores.items()}

    # One program for all groups: their many small operations would each be compiled alone.
    scores, normalised = jax.jit(rate)(known)
    # Before as well as after: a normalisation may make 0 of what is not finite, and the reverse.
    for name, values in [*scores.items(), *normalised.items()]:
        check_finite(values, f"score {score.name!r} of group {name!r}")
    return normalised


def _by_unit(leaf: Leaf, member: Member) -> Leaf:
    """The leaf as (units, weights per unit) along one member of a group."""
    size = member.index.shape[0]

    def view(array: jax.Array) -> jax.Array:
        taken = jnp.take(array, member.index.ravel(), axis=member.dim)
        return jnp.moveaxis(taken, member.dim, 0).reshape(size, -1)

    return leaf.view(view)
