"""Losses of features, position by position: maps `(batch, h, w, c)` or `(batch, length, width)`."""

import jax
import jax.numpy as jnp

from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import examples, mean, misfit, operands, unit

_PROJECT = "equal shapes (batch, ..., width); where widths differ, `project` the student's first"


def _l2(student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    if student.shape != teacher.shape or student.ndim < 2:
        raise misfit("l2", student, teacher, _PROJECT)
    student, teacher, mask = operands("l2", student, teacher, mask)
    return mean(jnp.square(student - teacher), mask)


l2 = Loss("l2", ("features", "hidden"), _l2)
"""Mean of (s - t)^2 over examples, positions and channels; shapes `(batch, ..., width)`.

For maps the hints of FitNets (Romero et al. 2015, arXiv:1412.6550, equation 3, there half the sum);
for sequences TinyBERT's loss of embeddings and of hidden states (Jiao et al. 2020,
arXiv:1909.10351, equations 8 and 9). Students of another width are projected first.

>>> float(l2.value(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
2.0
"""


def _cosine(student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    if student.shape != teacher.shape or student.ndim < 2:
        raise misfit("cosine", student, teacher, _PROJECT)
    student, teacher, mask = operands("cosine", student, teacher, mask)
    return mean(jnp.square(unit(student) - unit(teacher)).sum(axis=-1) / 2, mask)


cosine = Loss("cosine", ("features", "hidden"), _cosine)
"""1 - cos(s, t) = ||s/||s|| - t/||t|| ||^2 / 2, mean over positions; shapes `(batch, ..., width)`.

DistilBERT's loss of hidden states (Sanh et al. 2019, arXiv:1910.01108, section 3), and half of
Patient KD's (Sun et al. 2019, arXiv:1908.09355). A vector of length 0 has no direction:
two of them agree, one costs 1/2.

>>> float(cosine.value(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]])))
1.0
"""


def _attention_transfer(
    student: jax.Array,
    teacher: jax.Array,
    *,
    power: float = 2.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    if student.ndim < 3 or student.shape[:-1] != teacher.shape[:-1]:
        need = "(batch, h, w, channels), equal but for the channels"
        raise misfit("attention_transfer", student, teacher, need)
    if power < 1:
        raise ValueError(f"attention_transfer: power = {power} must be at least 1")
    student, teacher, mask = operands("attention_transfer", student, teacher, mask)

    def attention(x: jax.Array) -> jax.Array:
        """`(batch, positions)`, of length 1."""
        return unit((jnp.abs(x) ** power).sum(axis=-1).reshape(x.shape[0], -1))

    apart = jnp.square(attention(student) - attention(teacher)).sum(axis=-1)
    return mean(apart, examples(mask, student.shape[0]))


attention_transfer = Loss("attention_transfer", ("features",), _attention_transfer)
"""||Q_S/||Q_S|| - Q_T/||Q_T|| ||^2, Q the sums over channels of |A|^power at each position.

Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2 with its F_sum^p: where a network looks,
whatever its channels are and however many. Maps are `(batch, h, w, channels)`, and any
`(batch, ..., channels)` will do. The equation has the distance itself, which has no gradient where
the maps agree; this is its square, as is usual, summed over positions and averaged over the batch.
"""
