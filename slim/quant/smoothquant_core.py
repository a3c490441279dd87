"""SmoothQuant: move what is hard to quantize from the inputs of a product to its weights.

x @ w = (x / s) @ (s w) for any positive s of shape (in,). Inputs whose channels are of very unlike
range become even, at the price of less even weights. Xiao et al. 2022, arXiv:2211.10438.
"""

import jax
import jax.numpy as jnp


def smoothing_factors(
    input_reach: jax.Array, weight_reach: jax.Array, alpha: float = 0.5
) -> jax.Array:
    """s_j = max |x_j|^alpha / max |w_j|^(1 - alpha), and 1 where either is zero.

    Args:
        input_reach: max |x_j| of each input channel, (in,).
        weight_reach: max |w_j| over the outputs, (in,); of the largest, where several weights read
            the same inputs (queries, keys, values).
        alpha: how much of the difficulty goes to the weights, from 0 to 1; 0.5 shares it evenly:
            then x_j / s_j and s_j w_j reach equally far.

    Returns:
        float32 (in,).

    Raises:
        ValueError: shapes differ, or alpha is outside [0, 1].

    >>> smoothing_factors(jnp.array([16.0, 1.0]), jnp.array([1.0, 1.0])).tolist()
    [4.0, 1.0]
    """
    if input_reach.ndim != 1 or input_reach.shape != weight_reach.shape:
        raise ValueError(
            f"input_reach of shape {input_reach.shape} and weight_reach of shape "
            f"{weight_reach.shape}: both must be (in,)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: must be from 0 (all left to the inputs) to 1")
    x, w = input_reach.astype(jnp.float32), weight_reach.astype(jnp.float32)
    seen = (x > 0) & (w > 0)
    one = jnp.float32(1.0)
    return jnp.where(seen, x, one) ** alpha / jnp.where(seen, w, one) ** (1 - alpha)


def smooth(w: jax.Array, factors: jax.Array) -> jax.Array:
    """The weights s w for inputs x / s: w (in, out), in its dtype."""
    return (w.astype(jnp.float32) * factors[:, None]).astype(w.dtype)
