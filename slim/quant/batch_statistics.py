"""Batch statistics found anew, for a network whose weights or activations have been changed.

Rounding and pruning move what batch normalization sees; its running averages still describe the
network before. They are replaced by plain means over batches, whatever momentum m they are kept
with: training computes

    new(old) = m old + (1 - m) batch,    so for any number s

    m = (new(s) - new(0)) / s,    batch = new(0) / (1 - m).

Found for any function of that form: no layers are named.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths

PyTree = Any
Variables = dict[str, PyTree]

# So large that what the batch adds to m s is lost in rounding, and m is known to the last digit.
PROBE = 2.0**64


def reestimate(
    train_fn: Callable[..., tuple[Any, Variables]],
    variables: Variables,
    batches: Iterable[tuple[Any, ...]],
) -> Variables:
    """The variables with batch statistics that are the mean of the batches' own.

    With K batches: mean = (1 / K) sum_k mean_k, and so for every other statistic: a variance is
    the mean of the variances within batches, as in the running averages (Ioffe and Szegedy,
    arXiv:1502.03167, algorithm 2; Wu and Johnson, arXiv:2105.07576, section 3).

    Args:
        train_fn: `train_fn(variables, *batch) -> (outputs, changed collections)`: in training
            mode, so that what it computes depends on the batch's statistics and not on the old.
        variables: collections by name.
        batches: tuples of inputs, of one shape, or it compiles once for each. All count alike.

    Raises:
        ValueError: no batches; nothing changes; a leaf that changes is no such average.
    """
    step = jax.jit(lambda variables, *batch: _probed(train_fn, variables, batch))
    count, total, rest = 0, None, None
    for batch in batches:
        at_zero, slopes = step(variables, *batch)
        if total is None:
            total, rest = at_zero, paths.map_with_path(_one_minus_momentum, slopes)
        else:
            total = jax.tree.map(jnp.add, total, at_zero)
        count += 1
    if total is None:
        raise ValueError("batches: none were given; batch statistics need at least one")
    return variables | jax.tree.map(lambda leaf, part: leaf / (part * count), total, rest)


def _probed(
    train_fn: Callable[..., tuple[Any, Variables]], variables: Variables, batch: tuple[Any, ...]
) -> tuple[Variables, Variables]:
    """The new statistics where the old are 0, and m entry by entry."""
    _, changed = jax.eval_shape(train_fn, variables, *batch)
    if not jax.tree.leaves(changed):
        raise ValueError(
            "train_fn changes no collection, so there are no batch statistics to estimate; give "
            "the function in training mode, of a network with batch normalization"
        )

    def new(old: Any) -> Variables:
        statistics = paths.map_with_path(lambda path, like: _filled(path, like, old), changed)
        return dict(train_fn(variables | dict(statistics), *batch)[1])

    # What does not depend on the statistics, the whole forward pass, is computed once.
    both = jax.vmap(new)(jnp.array([0.0, PROBE]))
    at_zero = jax.tree.map(lambda leaf: leaf[0], both)
    return at_zero, jax.tree.map(lambda leaf: (leaf[1] - leaf[0]) / PROBE, both)


def _filled(path: str, like: Any, value: Any) -> jax.Array:
    if not jnp.issubdtype(like.dtype, jnp.floating):
        raise ValueError(_refused(path, f"it is of type {like.dtype}"))
    return jnp.full(like.shape, value, like.dtype)


def _one_minus_momentum(path: str, slope: Any) -> float:
    slope = np.asarray(slope)
    low, high = float(slope.min()), float(slope.max())
    if not (low > -1e-6 and high < 1 and high - low < 1e-6):
        raise ValueError(
            _refused(path, f"its new value's slope in the old is from {low:.6g} to {high:.6g}")
        )
    # 0.99 is meant where single precision has 0.99000001: 1 - m would have an error of 1e-6.
    return 1 - float(str(slope.flat[0]))


def _refused(path: str, found: str) -> str:
    return (
        f"{path!r} is not a running average m old + (1 - m) batch with one m in [0, 1): {found}; "
        "leave it out of what train_fn returns as changed"
    )
