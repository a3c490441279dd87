"""Scores of weights and gradients: what the loss would do without them."""

import jax
import jax.numpy as jnp

from slim.prune.evidence import Leaf
from slim.prune.scores.score import Score, additive

gradient_norm = additive(
    "gradient_norm", lambda leaf: jnp.square(leaf["grads"]), jnp.sqrt, needs=("grads",)
)
"""||dL/dw||_2: units that still want to change are kept."""

taylor = additive("taylor", lambda leaf: leaf.weight * leaf["grads"], jnp.abs, needs=("grads",))
"""|sum w dL/dw|, the first-order change of the loss when all of them go (Molchanov et al. 2019,
arXiv:1906.10771). The sum is signed: what one weight adds another may take."""

fisher = additive(
    "fisher",
    lambda leaf: jnp.square(leaf.weight) * leaf["squared_grads"] / 2,
    lambda total: total,
    needs=("squared_grads",),
)
"""sum w^2 E[(dL/dw)^2] / 2: Optimal Brain Damage (LeCun et al. 1990) with the empirical Fisher
diagonal for the Hessian's (Theis et al. 2018, arXiv:1801.05787)."""


def _saliency(leaf: Leaf) -> jax.Array:
    return jnp.abs(leaf.weight * leaf["grads"])


def _ratio(saliency: jax.Array, square: jax.Array) -> jax.Array:
    return jnp.where(square > 0, saliency / jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


layer_sensitive = Score(
    name="layer_sensitive",
    needs=("grads",),
    terms=lambda leaf: (_saliency(leaf).sum(axis=1), jnp.square(leaf.weight).sum(axis=1)),
    finish=_ratio,
    # A single weight's share of its output unit's score.
    weights=lambda leaf: _ratio(
        _saliency(leaf),
        jnp.square(leaf.weight).sum(axis=tuple(range(leaf.weight.ndim - 1)), keepdims=True),
    ),
)
"""sum_j |w_ij dL/dw_ij| / ||w_i||_2: saliency freed of the weights' scale, so that layers compare.
Units of zero weights score 0."""
