"""Losses of predictions: softened targets (Hinton et al. 2015, arXiv:1503.02531)."""

import jax
import jax.numpy as jnp

from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import as_temperature, mean, misfit, operands


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) = sum p (log p - log q) in nats, over the last axis of log-probabilities.

    `sum q - p`, which is 0, is added to the terms. Each is then at least 0 and vanishes to second
    order where p = q, so that rounding does too; without it, tau^2 would multiply the rounding
    of cancelled first orders.

    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> float(kl(p, p))
    0.0
    """
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    apart = jnp.where(p > 0, log_p - log_q, 0)
    near = jnp.clip(apart, -1, 1)
    terms = jnp.where(apart == near, p * (near + jnp.expm1(-near)), p * apart - p + q)
    return jnp.where(p > 0, terms, q).sum(axis=-1)


def _soft_targets(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: jax.Array | float = 1.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    if student.shape != teacher.shape or student.ndim < 2:
        raise misfit("soft_targets", student, teacher, "equal shapes (batch, ..., classes)")
    temperature = as_temperature("soft_targets", temperature)
    student, teacher, mask = operands("soft_targets", student, teacher, mask)
    log_p, log_q = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
    return jnp.square(temperature) * mean(kl(log_p, log_q), mask)


soft_targets = Loss("soft_targets", ("logits",), _soft_targets)
"""tau^2 KL(softmax(v / tau) || softmax(z / tau)) of student logits z and teacher logits v.

Hinton et al. 2015, arXiv:1503.02531, section 2. tau^2 keeps the gradient's size as the temperature
changes: for logits of mean 0, tau -> infinity gives 1/(2N) ||z - v||^2 over N classes. The mixture
with the loss of hard labels is the recipe's. Logits are `(batch, ..., classes)`.

>>> z = jnp.array([[1.0, 0.0]])
>>> float(soft_targets.value(z, z, temperature=4.0))
0.0
"""
