"""Soft targets of which only the teacher's k largest are stored, for large vocabularies."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.distill.losses.logits import kl
from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import as_temperature, masked, mean, operands


class TopK(NamedTuple):
    """The k likeliest classes, and what all others have together.

    Attributes:
        values: log-probabilities of the k, falling, `(batch, ..., k)`.
        indices: their classes, `(batch, ..., k)`, int32.
        rest: log-probability of any other class, `(batch, ...)`; -inf if k is all.
    """

    values: jax.Array
    indices: jax.Array
    rest: jax.Array


def top_k(logits: jax.Array, k: int, temperature: jax.Array | float = 1.0) -> TopK:
    """What to store of a teacher's logits `(batch, ..., classes)` for `soft_targets_top_k`.

    Nothing of the rest but its mass is kept, and that depends on the temperature: it is the loss's.

    Raises:
        ValueError: k outside [1, classes]; a temperature that is not positive.

    >>> top_k(jnp.log(jnp.array([[0.2, 0.7, 0.1]])), k=2).indices
    Array([[1, 0]], dtype=int32)
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k = {k}: must be in [1, {logits.shape[-1]}], logits {logits.shape}")
    temperature = as_temperature("top_k", temperature)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    values, indices = jax.lax.top_k(log_p, k)
    if k == logits.shape[-1]:
        return TopK(values, indices, jnp.full(values.shape[:-1], -jnp.inf))
    return TopK(values, indices, _log_rest(log_p, indices))


def _soft_targets_top_k(
    student: jax.Array,
    teacher: TopK,
    *,
    temperature: jax.Array | float = 1.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    leading, classes, k = student.shape[:-1], student.shape[-1], teacher.values.shape[-1]
    given = tuple(part.shape for part in teacher)
    if student.ndim < 2 or given != ((*leading, k), (*leading, k), leading) or k > classes:
        raise ValueError(
            f"soft_targets_top_k: student {student.shape}, teacher's values, indices and rest "
            f"{given}: need (batch, ..., classes), (batch, ..., k) twice with k <= classes, and "
            "(batch, ...)"
        )
    temperature = as_temperature("soft_targets_top_k", temperature)
    student, values, mask = operands("soft_targets_top_k", student, teacher.values, mask)
    rest, indices = jax.lax.stop_gradient(teacher.rest.astype(jnp.float32)), teacher.indices
    if mask is not None:
        rest, indices = masked(rest, mask), masked(indices, mask)

    log_q = jax.nn.log_softmax(student / temperature)
    log_p, kept = values, jnp.take_along_axis(log_q, indices, axis=-1)
    if k < classes:
        log_p = jnp.concatenate([values, rest[..., None]], axis=-1)
        kept = jnp.concatenate([kept, _log_rest(log_q, indices)[..., None]], axis=-1)
    # What was stored in fewer bits sums to 1 again.
    log_p = jax.nn.log_softmax(log_p)
    return jnp.square(temperature) * mean(kl(log_p, kept), mask)


soft_targets_top_k = Loss("soft_targets_top_k", ("top_k",), _soft_targets_top_k)
"""tau^2 KL over k + 1 outcomes: the teacher's k likeliest classes, and any of the others.

The rest of the mass is one outcome, on both sides. So the student learns how much to give to the
rest and nothing about what is in it: its own proportions there stay. Renormalising over the k
instead would teach that the rest is impossible, a bias that costs accuracy and calibration
(Anshumann et al. 2025, arXiv:2503.16870). By the data-processing inequality the loss is at most
`soft_targets`, and it is equal where k is all classes. Student logits are `(batch, ..., classes)`,
the teacher a `TopK` made at the same temperature: a schedule of it needs the teacher itself.

>>> v = jnp.array([[4.0, 3.0, 0.0, -1.0]])
>>> float(soft_targets_top_k.value(v, top_k(v, k=2))) < 1e-6
True
"""


def _log_rest(log_p: jax.Array, indices: jax.Array) -> jax.Array:
    """Logarithm of the mass outside of `indices`, summed rather than subtracted from 1."""

    @partial(jnp.vectorize, signature="(c),(k)->(c)")
    def drop(row: jax.Array, at: jax.Array) -> jax.Array:
        return row.at[at].set(-jnp.inf)

    return jax.nn.logsumexp(drop(log_p, indices), axis=-1)
