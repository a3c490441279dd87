"""Scores of the activations that meet a weight or leave a unit."""

import jax.numpy as jnp

from slim.prune.scores.score import Score, additive

wanda = additive(
    "wanda",
    lambda leaf: jnp.abs(leaf.weight) * leaf["input_norms"],
    lambda total: total,
    needs=("input_norms",),
)
"""sum |w_ij| ||x_j||_2 (Sun et al. 2024, arXiv:2306.11695). The paper ranks within each output:
the distribution `per_output`."""

apoz = Score(
    name="apoz",
    needs=("zero_fractions",),
    # The mean over the tensors that take the unit in: sum of shares, and how many were summed.
    terms=lambda leaf: (
        (1 - leaf["zero_fractions"]).mean(axis=1),
        jnp.ones(leaf.weight.shape[0], jnp.float32),
    ),
    finish=lambda active, count: active / count,
    weights=None,
)
"""1 - the unit's average percentage of zeros (Hu et al. 2016, arXiv:1607.03250)."""
