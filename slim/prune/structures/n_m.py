"""N:M sparsity: of every M consecutive weights along an axis, N are kept."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from slim import paths
from slim.prune.distributions import Distribution
from slim.prune.ratio import check_keep
from slim.prune.structures.structure import Structure


def n_m(n: int, m: int, *, axes: Sequence[tuple[str, int]] = ()) -> Structure:
    """The N highest of every M consecutive scores along the contracted axis.

    Hardware skips the others (Mishra et al. 2021, arXiv:2104.08378). Every tensor keeps the same
    share, whatever the distribution. While a schedule's keep ratio r is above N/M, ceil(r M) of
    every M are kept: 4:4, 3:4, then 2:4.

    Args:
        n: how many are kept.
        m: of how many.
        axes: (path pattern, axis) rules, first match wins. The axis that the product sums over is
            the second last where no rule matches: the inputs of a dense (inputs, outputs) or
            convolution (height, width, inputs, outputs) kernel. A kernel (inputs, heads, width)
            needs the rule (its path, 0); `contracted_axes` reads all of them off a graph.

    Raises:
        ValueError: not 0 < N < M; when applied, a tensor whose axis M does not divide, a keep ratio
            below N/M, a rule that decides nothing.

    >>> import jax.numpy as jnp
    >>> from slim.prune import DISTRIBUTIONS
    >>> scores = {"w": jnp.array([[4.0], [1.0], [3.0], [2.0]])}
    >>> n_m(2, 4)(scores, 0.5, DISTRIBUTIONS["uniform"])["w"].ravel().tolist()
    [True, False, True, False]
    """
    if not 0 < n < m:
        raise ValueError(f"{n}:{m} sparsity: need 0 < N < M, such as 2:4")

    def masks(
        scores: Mapping[str, jax.Array], keep: jax.Array | float, distribution: Distribution
    ) -> dict[str, jax.Array]:
        del distribution
        check_keep(keep)
        if not isinstance(keep, jax.core.Tracer) and float(keep) < n / m - 1e-6:
            raise ValueError(
                f"keep ratio is {float(keep)}, {n}:{m} sparsity keeps {n / m}: ask for that, or "
                "for another N:M"
            )
        chosen = paths.resolve(axes, scores, what="N:M axis rule")
        # The tolerance is for 2/3 and the like, whose product with M is not quite whole.
        allowed = jnp.ceil(jnp.asarray(keep, jnp.float32) * m - 1e-4).astype(jnp.int32)
        result = {}
        for path, values in scores.items():
            axis = chosen[path]
            axis = -2 if axis is None else axis
            result[path] = _highest_of_each(path, values, jnp.maximum(allowed, n), m, axis)
        return result

    return masks


def _highest_of_each(
    path: str, values: jax.Array, count: jax.Array, m: int, axis: int
) -> jax.Array:
    if not -values.ndim <= axis < values.ndim or values.shape[axis] % m:
        raise ValueError(
            f"N:M sparsity with M={m} along axis {axis} of {path!r} of shape {values.shape}: that "
            f"axis must exist and be a multiple of {m}; name another by the rule ({path!r}, axis), "
            f"or leave the tensor out by the rule ({path!r}, False)"
        )
    moved = jnp.moveaxis(values, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], -1, m)
    # A score's rank is the number of its group's scores that come before it: higher, or equal
    # and earlier. M is small, so comparing all pairs beats sorting.
    mine, other = groups[..., :, None], groups[..., None, :]
    earlier = jnp.arange(m)[None, :] < jnp.arange(m)[:, None]
    rank = ((other > mine) | ((other == mine) & earlier)).sum(axis=-1, dtype=jnp.int32)
    return jnp.moveaxis((rank < count).reshape(moved.shape), -1, axis)
