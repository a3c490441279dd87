"""What all losses do with their operands: check, cast and mask them, and take means.

A `mask`, of 0/1 or bool, covers the leading axes of a value: `(batch,)` leaves out examples,
`(batch, length)` tokens. What stands where it is 0 has no influence, were it NaN. A loss of nothing
is 0.
"""

import jax
import jax.numpy as jnp

# Vectors shorter than 1e-12 have no direction: the gradient of one, of order 1 / length, stays
# far from float32's limits.
SHORTEST = 1e-12


def misfit(loss: str, student: jax.Array, teacher: jax.Array, need: str) -> ValueError:
    """The error for values whose shapes do not fit."""
    return ValueError(f"{loss}: student {student.shape}, teacher {teacher.shape}: need {need}")


def operands(
    loss: str, student: jax.Array, teacher: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Both values in float32, 0 where masked, the teacher's without gradient; the mask as bool.

    Raises:
        ValueError: a mask that is not in the shape of both values' leading axes.
    """
    student = student.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
    if mask is None:
        return student, teacher, None
    for owner, value in ("student", student), ("teacher", teacher):
        if mask.ndim < 1 or mask.shape != value.shape[: mask.ndim]:
            raise ValueError(
                f"{loss}: mask {mask.shape}, {owner} {value.shape}: need a mask in the shape of "
                "the value's leading axes, (batch,) or (batch, length)"
            )
    mask = mask.astype(bool)
    return masked(student, mask), masked(teacher, mask), mask


def masked(value: jax.Array, mask: jax.Array) -> jax.Array:
    """`value`, 0 where the mask of its leading axes is False."""
    return jnp.where(_spread(mask, value), value, jnp.zeros((), value.dtype))


def mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean of all values that the mask of their leading axes keeps; 0 if it keeps none."""
    if mask is None:
        return values.mean()
    kept = jnp.broadcast_to(_spread(mask, values), values.shape)
    return jnp.where(kept, values, 0).sum() / jnp.maximum(kept.sum(dtype=jnp.float32), 1)


def examples(mask: jax.Array | None, batch: int) -> jax.Array:
    """Which examples have anything left, `(batch,)`."""
    return jnp.ones(batch, bool) if mask is None else mask.reshape(batch, -1).any(axis=1)


def norm(x: jax.Array) -> jax.Array:
    """Lengths along the last axis; the gradient of a length of 0 is 0."""
    squares = jnp.square(x).sum(axis=-1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def unit(x: jax.Array) -> jax.Array:
    """Vectors along the last axis over their lengths; 0, with gradient 0, if below `SHORTEST`."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    long = squares > SHORTEST**2
    return jnp.where(long, x * jax.lax.rsqrt(jnp.where(long, squares, 1)), 0)


def as_temperature(loss: str, temperature: jax.Array | float) -> jax.Array:
    """The temperature in float32.

    Raises:
        ValueError: a concrete temperature that is not a positive number; a traced one passes.
    """
    if not isinstance(temperature, jax.core.Tracer) and not 0 < float(temperature) < float("inf"):
        raise ValueError(
            f"{loss}: temperature = {float(temperature)} must be positive and finite; 1 leaves "
            "the probabilities as they are"
        )
    return jnp.asarray(temperature, jnp.float32)


def _spread(mask: jax.Array, value: jax.Array) -> jax.Array:
    return mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))
