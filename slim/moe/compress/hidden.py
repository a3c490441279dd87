"""Hidden units of experts: which order they stand in is free, for each expert by itself."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from slim.moe.experts import Experts


def permute_hidden(experts: Experts, order: jax.Array) -> Experts:
    """The same function, with hidden unit `order[e, i]` of expert e in place i.

    A group of `slim.graph` that runs along the hidden width cuts the same places in every expert.
    With the units of each sorted by importance first, it cuts the least important of each.

    Args:
        experts: of `(experts, width, hidden)`.
        order: int `(experts, hidden)`, a permutation in each row.
    """
    columns, rows = order[:, None, :], order[:, :, None]
    return Experts(
        jnp.take_along_axis(experts.gate, columns, axis=2),
        jnp.take_along_axis(experts.up, columns, axis=2),
        jnp.take_along_axis(experts.down, rows, axis=1),
    )


def align_hidden(experts: Experts, references: np.ndarray) -> Experts:
    """Each expert's hidden units put where the most similar ones of another expert are.

    The permutation that maximizes the sum of the units' inner products with those in the same
    place, over the three matrices: weight matching (Ainsworth et al., arXiv:2209.04836), as M-SMoE
    does before it averages (arXiv:2310.01334, section 3.1). On the host; not under `jit`.

    Args:
        experts: of `(experts, width, hidden)`.
        references: int `(experts,)`, which expert each is aligned to; itself leaves it as it is.
    """
    units = np.concatenate(
        [
            np.swapaxes(np.asarray(experts.gate, np.float32), 1, 2),
            np.swapaxes(np.asarray(experts.up, np.float32), 1, 2),
            np.asarray(experts.down, np.float32),
        ],
        axis=2,
    )
    order = np.tile(np.arange(units.shape[1]), (len(units), 1))
    for expert, reference in enumerate(np.asarray(references)):
        if expert != reference:
            order[expert] = linear_sum_assignment(
                units[reference] @ units[expert].T, maximize=True
            )[1]
    return permute_hidden(experts, jnp.asarray(order))
