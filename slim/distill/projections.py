"""Learned projections of a student's features to the width of its teacher's.

They are trained beside the student, in parameters of their own, and thrown away with the teacher.
"""

import jax
import jax.numpy as jnp

Projection = dict[str, jax.Array]


def init_projection(
    key: jax.Array, student: tuple[int, ...], teacher: tuple[int, ...]
) -> Projection:
    """Parameters for `project`; none, `{}`, where the widths are equal.

    Args:
        key: a PRNG key.
        student: shape of the student's features, `(batch, h, w, c)` or `(batch, length, width)`.
        teacher: shape of the teacher's, equal but for the last axis.

    Returns:
        `kernel`, `(student width, teacher width)`, of variance 1 / student width (LeCun), and
        `bias`, `(teacher width,)`, 0; both float32.

    Raises:
        ValueError: shapes that differ in more than the width.

    >>> params = init_projection(jax.random.key(0), (8, 16, 32), (8, 16, 64))
    >>> project(params, jnp.ones((8, 16, 32))).shape
    (8, 16, 64)
    """
    if len(student) < 2 or student[:-1] != teacher[:-1]:
        raise ValueError(
            f"projection of {student} to {teacher}: need (batch, ..., width) that differ only in "
            "width; choose a layer of the teacher with as many positions"
        )
    if student[-1] == teacher[-1]:
        return {}
    kernel = jax.nn.initializers.lecun_normal()(key, (student[-1], teacher[-1]), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(teacher[-1])}


def project(params: Projection, x: jax.Array) -> jax.Array:
    """X W + b at each position, in float32: `(..., student width)` to `(..., teacher width)`.

    A 1x1 convolution for maps (FitNets' regressor, Romero et al. 2015, arXiv:1412.6550), W_h and
    W_e of TinyBERT for sequences (Jiao et al. 2020, arXiv:1909.10351). `{}` gives x as it is.

    Raises:
        ValueError: features of another width than the parameters were made for.
    """
    if not params:
        return x
    if x.shape[-1] != params["kernel"].shape[0]:
        raise ValueError(
            f"projection of width {params['kernel'].shape[0]} to {params['kernel'].shape[1]} was "
            f"given features {x.shape}: make one for them with init_projection"
        )
    return x.astype(jnp.float32) @ params["kernel"] + params["bias"]
