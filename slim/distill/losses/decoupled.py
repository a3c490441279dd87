"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679)."""

import jax
import jax.numpy as jnp

from slim.distill.losses.logits import kl
from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import as_temperature, masked, mean, misfit, operands


def decoupled_terms(
    student: jax.Array, teacher: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """TCKD and NCKD of every row: KL(p || q) = TCKD + (1 - p_t) NCKD, t being the label's class.

    TCKD is KL between (p_t, 1 - p_t) and (q_t, 1 - q_t), NCKD KL between the probabilities of the
    other classes, each side's over its own 1 - p_t.

    Args:
        student: logits over the temperature, `(batch, ..., classes)`, float32.
        teacher: the same.
        labels: `(batch, ...)`, integers in [0, classes).

    Returns:
        Both `(batch, ...)`, in nats.
    """
    classes = jnp.arange(student.shape[-1], dtype=jnp.int32)
    is_target = labels.astype(jnp.int32)[..., None] == classes

    def split(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p = jax.nn.log_softmax(logits)
        others = jnp.where(is_target, -jnp.inf, log_p)
        target = jnp.where(is_target, log_p, 0).sum(axis=-1)
        binary = jnp.stack([target, jax.nn.logsumexp(others, axis=-1)], axis=-1)
        return binary, jax.nn.log_softmax(others)

    (teacher_binary, teacher_others), (binary, others) = split(teacher), split(student)
    return kl(teacher_binary, binary), kl(teacher_others, others)


def _decoupled(
    student: jax.Array,
    teacher: jax.Array,
    *,
    labels: jax.Array,
    temperature: jax.Array | float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    if student.shape != teacher.shape or student.ndim < 2 or student.shape[-1] < 2:
        raise misfit(
            "decoupled", student, teacher, "equal shapes (batch, ..., classes), classes >= 2"
        )
    if labels.shape != student.shape[:-1]:
        raise ValueError(
            f"decoupled: labels {labels.shape}, student {student.shape}: need labels (batch, ...), "
            "one for each row of logits"
        )
    temperature = as_temperature("decoupled", temperature)
    student, teacher, mask = operands("decoupled", student, teacher, mask)
    if mask is not None:
        labels = masked(labels, mask)
    target, others = decoupled_terms(student / temperature, teacher / temperature, labels)
    return jnp.square(temperature) * mean(alpha * target + beta * others, mask)


decoupled = Loss("decoupled", ("logits",), _decoupled)
"""tau^2 (alpha TCKD + beta NCKD): DKD, Zhao et al. 2022, arXiv:2203.08679.

Plain soft targets weight NCKD, what the teacher says of the classes that are not the label's, by
1 - p_t: the surer the teacher, the less. Here the weight is `beta`. Logits are
`(batch, ..., classes)`, `labels` `(batch, ...)` of integers in [0, classes). The defaults are the
paper's for CIFAR-100, where the best beta is smaller for teachers that are less sure.
"""
