"""Losses of attention matrices `(batch, heads, queries, keys)`.

Where head counts differ, as in a pruned student, both sides are averaged over their heads first.
The mask is of tokens, `(batch, length)`, or says which query may see which key,
`(batch, queries, keys)`, as a causal one does.
"""

import jax
import jax.numpy as jnp

from slim.distill.losses.logits import kl
from slim.distill.losses.loss import Loss
from slim.distill.losses.operands import misfit


def _attention_mse(
    student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    student, teacher, seen = _attention("attention_mse", student, teacher, mask)
    count = seen.sum(dtype=jnp.float32) * student.shape[1]
    return jnp.square(student - teacher).sum() / jnp.maximum(count, 1)


attention_mse = Loss("attention_mse", ("attention",), _attention_mse)
"""Mean of (A_S - A_T)^2 over examples, heads, queries and the keys that they see.

TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 7: of the scores before the softmax, which
the paper finds to converge faster; probabilities will do. Both are `(batch, heads, queries, keys)`.
"""


def _attention_kl(
    student: jax.Array, teacher: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    student, teacher, seen = _attention("attention_kl", student, teacher, mask)
    tiny = jnp.finfo(jnp.float32).tiny
    log_p, log_q = (jnp.log(jnp.maximum(x, tiny)) for x in (teacher, student))
    count = seen.any(axis=-1).sum(dtype=jnp.float32) * student.shape[1]
    return kl(log_p, log_q).sum() / jnp.maximum(count, 1)


attention_kl = Loss("attention_kl", ("attention",), _attention_kl)
"""KL(A_T || A_S) over the keys, mean over examples, heads and queries; of probabilities.

MiniLM, Wang et al. 2020, arXiv:2002.10957, section 3.1, there of the last layer. Both are
`(batch, heads, queries, keys)`, each row a distribution. A probability that underflowed counts as
the least normal float32 and passes no gradient.
"""


def _attention(
    loss: str, student: jax.Array, teacher: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both in float32 with equal heads, 0 at pairs not seen; the pairs seen, `(batch, q, k)`."""
    pairs = [(x.shape[0], *x.shape[2:]) for x in (student, teacher)]
    if len(pairs[0]) != 3 or pairs[0] != pairs[1]:
        need = "(batch, heads, queries, keys), equal but for the heads"
        raise misfit(loss, student, teacher, need)
    batch, queries, keys = pairs[0]
    if mask is None:
        seen = jnp.ones((batch, queries, keys), bool)
    elif mask.shape == (batch, queries, keys):
        seen = mask.astype(bool)
    elif mask.shape == (batch, queries) == (batch, keys):
        seen = mask.astype(bool)[:, :, None] & mask.astype(bool)[:, None, :]
    else:
        raise ValueError(
            f"{loss}: mask {mask.shape}, student {student.shape}: need (batch, length) where "
            "queries and keys are the same tokens, or (batch, queries, keys)"
        )
    student = student.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
    student, teacher = (jnp.where(seen[:, None], x, 0) for x in (student, teacher))
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(axis=1, keepdims=True) for x in (student, teacher))
    return student, teacher, seen
