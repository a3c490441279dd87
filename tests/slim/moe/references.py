"""Routing written a token at a time in NumPy, after the papers' text."""

import numpy as np


def best(scores, count):
    """The indices of the highest scores; of equal ones the lower index first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]


def choose(biased, router):
    """The experts of one token, from its biased scores in float32."""
    size = len(biased) // router.groups
    groups = [range(g * size, (g + 1) * size) for g in range(router.groups)]
    summed = 2 if router.group_score == "top_two" else 1
    worth = [np.sum(np.sort(biased[group])[-summed:], dtype=np.float32) for group in groups]
    allowed = sorted(e for g in best(worth, router.groups_kept) for e in groups[g])
    return [allowed[i] for i in best([biased[e] for e in allowed], router.k)]


def weigh(scores, experts, router):
    """The gates of one token, from its scores without bias."""
    gates = np.asarray([scores[e] for e in experts], np.float64)
    if router.normalize:
        gates = gates / (gates.sum() + 1e-20)
    return gates * router.scale


def affinities(logits, name):
    logits = np.asarray(logits, np.float64)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
