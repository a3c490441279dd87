"""Scores by name. A new one is a `Score` in this folder and its place in `SCORES`."""

from slim.prune.scores.activation import apoz, wanda
from slim.prune.scores.gradient import fisher, gradient_norm, layer_sensitive, taylor
from slim.prune.scores.groups import score_groups
from slim.prune.scores.magnitude import l1, l2, lamp, random
from slim.prune.scores.score import Score, score_weights
from slim.prune.scores.unit import fpgm, norm_scale

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        l1,
        l2,
        lamp,
        gradient_norm,
        taylor,
        layer_sensitive,
        fisher,
        wanda,
        apoz,
        fpgm,
        norm_scale,
        random,
    )
}

__all__ = ["SCORES", "Score", "score_groups", "score_weights"]
