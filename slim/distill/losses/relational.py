"""Losses of what examples are to each other: the two networks' widths and shapes may differ.

Values `(batch, ...)` are flattened to a vector an example; a mask of tokens makes their entries 0
in it, and leaves out examples that have none.
"""

import jax
import jax.numpy as jnp
import optax

from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import examples, mean, misfit, norm, operands, unit


def _rkd_distance(
    student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    student, teacher, valid = _vectors("rkd_distance", student, teacher, mask)
    pairs = _distinct(valid)

    def relative(x: jax.Array) -> jax.Array:
        distances = norm(_differences(x))
        average = mean(distances, pairs)
        return distances / jnp.where(average > 0, average, 1)

    return mean(optax.losses.huber_loss(relative(student), relative(teacher)), pairs)


rkd_distance = Loss("rkd_distance", ("features", "hidden", "logits"), _rkd_distance)
"""Huber's l(||t_i - t_j|| / mu_t, ||s_i - s_j|| / mu_s), mean over pairs i != j; mu their mean.

RKD-D, Park et al. 2019, arXiv:1904.05068, section 3.2 (there a sum). Rotating, shifting or
scaling all of a network's vectors changes nothing. Values `(batch, ...)`; memory grows with
batch^2 times width. A batch of 1 has no pairs: 0.
"""


def _rkd_angle(
    student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    student, teacher, valid = _vectors("rkd_angle", student, teacher, mask)
    pairs = _distinct(valid)
    triplets = pairs[:, :, None] & pairs[:, None, :] & pairs[None]

    def cosines(x: jax.Array) -> jax.Array:
        """At [j, i, k] of the angle at j between i and k."""
        directions = unit(_differences(x))
        return jnp.einsum("jid,jkd->jik", directions, directions, precision="highest")

    return mean(optax.losses.huber_loss(cosines(student), cosines(teacher)), triplets)


rkd_angle = Loss("rkd_angle", ("features", "hidden", "logits"), _rkd_angle)
"""Huber's l(cos of the angle at t_j between t_i and t_k, the same of s), mean over triplets.

RKD-A, Park et al. 2019, arXiv:1904.05068, section 3.2 (there a sum), i, j and k distinct.
Values `(batch, ...)`; memory grows with batch^2 times width, and batch^3. Batches of 1 and 2 have
no triplets: 0.
"""


def _similarity_preserving(
    student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    student, teacher, valid = _vectors("similarity_preserving", student, teacher, mask)

    def similarity(x: jax.Array) -> jax.Array:
        return unit(jnp.einsum("id,jd->ij", x, x, precision="highest"))

    pairs = valid[:, None] & valid[None, :]
    return mean(jnp.square(similarity(student) - similarity(teacher)), pairs)


similarity_preserving = Loss(
    "similarity_preserving", ("features", "hidden", "logits"), _similarity_preserving
)
"""||G_S - G_T||_F^2 / batch^2, where G = Q Q' with rows of length 1 and Q is `(batch, features)`.

SP, Tung and Mori 2019, arXiv:1907.09682. Values `(batch, ...)`; an orthogonal map
of a network's features changes nothing.
"""


def _vectors(
    loss: str, student: jax.Array, teacher: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both as `(batch, features)` and which examples count, `(batch,)`."""
    if min(student.ndim, teacher.ndim) < 2 or student.shape[0] != teacher.shape[0]:
        raise misfit(loss, student, teacher, "(batch, ...) with equal batches")
    student, teacher, mask = operands(loss, student, teacher, mask)
    batch = student.shape[0]
    return student.reshape(batch, -1), teacher.reshape(batch, -1), examples(mask, batch)


def _differences(x: jax.Array) -> jax.Array:
    """x_i - x_j at [j, i]: exact, where inner products would cancel for close examples."""
    return x[None, :] - x[:, None]


def _distinct(valid: jax.Array) -> jax.Array:
    """The pairs of two different examples, both valid, `(batch, batch)`."""
    return valid[:, None] & valid[None, :] & ~jnp.eye(valid.shape[0], dtype=bool)
