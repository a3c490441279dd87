"""What a change of weights does to a product: the Hessian of its squared error.

For outputs x @ w and w changed by d, the mean squared change of the outputs is quadratic in d,
E |x @ d|^2 = tr(d^T H d), with H = E x x^T: all that GPTQ and AWQ need to know of the inputs.
"""

import jax
import jax.numpy as jnp


def input_hessian(x: jax.Array) -> jax.Array:
    """The mean of x x^T over all but the last dimension: (..., in) to float32 (in, in).

    Means of equally large batches average to the mean over all of them.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return jnp.matmul(rows.T, rows, precision="highest") / rows.shape[0]


def output_error(change: jax.Array, hessian: jax.Array) -> jax.Array:
    """The mean squared change of the outputs, tr(d^T H d), of weights changed by d.

    Args:
        change: d, float32 (in, out).
        hessian: H of the inputs, float32 (in, in).

    Returns:
        A float32 scalar, summed over the outputs.

    >>> x, change = jnp.array([[1.0, 2.0]]), jnp.array([[0.5], [0.25]])
    >>> output_error(change, input_hessian(x)).item()  # (1 * 0.5 + 2 * 0.25)^2
    1.0
    """
    return (change * jnp.matmul(hessian, change, precision="highest")).sum()


def check_hessian(hessian: jax.Array, w: jax.Array) -> None:
    """Raise ValueError unless w is (in, out) and `hessian` (in, in) and, if concrete, finite."""
    if w.ndim != 2 or hessian.shape != (w.shape[0], w.shape[0]):
        raise ValueError(
            f"hessian of shape {hessian.shape} for weights of shape {w.shape}: must be (in, in) "
            "for weights (in, out); reshape a kernel of more dimensions first"
        )
    if isinstance(hessian, jax.core.Tracer):
        return
    bad = int((~jnp.isfinite(hessian)).sum())
    if bad:
        raise ValueError(
            f"hessian is not finite at {bad} of {hessian.size} places: the inputs that it was "
            "measured on hold infinities or NaN, or overflow when squared"
        )
