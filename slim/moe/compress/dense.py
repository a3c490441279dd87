"""One dense perceptron from experts: where a distillation starts.

    dense = concatenate_experts(experts, gate_load(routing, 16) / tokens, 2)
    LOSSES["l2"].value(swiglu_rows(jnp.matmul, dense, x[None])[0], y)     slim.distill's, y the
                                                                         mixture's output

`merge_experts` of all into one is another start, as wide as one expert.
"""

import jax
import jax.numpy as jnp

from slim.moe.compress.prune import choose_experts
from slim.moe.experts import Experts


def concatenate_experts(experts: Experts, gates: jax.Array, keep: int) -> Experts:
    """The most used experts side by side, each times its mean gate: hidden is `keep` times theirs.

    The sum over them of gate_e f_e(x), were a token's gates what they are on average. Those of the
    experts that are kept are scaled up to the sum of all.

    Args:
        experts: of `(experts, width, hidden)`.
        gates: `(experts,)`, the mean over all tokens of each expert's gate, 0 where it is not
            chosen: `gate_load` over the number of tokens.
        keep: how many experts.

    Returns:
        One expert, `(1, width, keep * hidden)`.

    Raises:
        ValueError: keep is not in 1 to experts.
    """
    kept = choose_experts(gates, keep)
    gates = gates.astype(jnp.float32)
    scales = gates[kept] * (gates.sum() / gates[kept].sum())
    gate, up, down = (leaf[kept] for leaf in experts)
    down = (down.astype(jnp.float32) * scales[:, None, None]).astype(down.dtype)
    return Experts(_joined(gate), _joined(up), down.reshape(1, -1, down.shape[-1]))


def _joined(leaf: jax.Array) -> jax.Array:
    """`(experts, width, hidden)` -> `(1, width, experts * hidden)`."""
    return jnp.swapaxes(leaf, 0, 1).reshape(1, leaf.shape[1], -1)
