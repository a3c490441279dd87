"""What a score may look at: weights, gradients and activation statistics, on one pytree each."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim import paths

PyTree = Any


# However many dimensions a scanned stack or a head split gave them.
_NOT_KERNELS = ("bias", "scale", "embedding")


def is_kernel(path: str, leaf: Any) -> bool:
    """Whether a parameter is a kernel: what scores and masks are about unless a rule says else.

    A floating-point array of two or more dimensions whose own name, the last part of its path,
    holds none of "bias", "scale", "embedding".
    """
    name = path.rpartition("/")[2]
    named_else = any(part in name for part in _NOT_KERNELS)
    return jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim >= 2 and not named_else


class Evidence(NamedTuple):
    """Everything measured about a model's weights; a score says which fields it `needs`.

    Every tree has the structure of `params`. Leaves of `input_norms` and `zero_fractions` need
    only broadcast against their weight; None where nothing was measured.

    Attributes:
        params: the weights.
        grads: the loss's gradient, averaged over batches.
        squared_grads: the mean over batches (or examples) of the squared gradient.
        input_norms: L2 norm of the inputs that each weight multiplies, over batch and positions;
            for a dense kernel (inputs, outputs) a leaf (inputs, 1).
        zero_fractions: share of zeros among those inputs; a leaf of the same shape.
        key: a random key.
    """

    params: PyTree
    grads: PyTree | None = None
    squared_grads: PyTree | None = None
    input_norms: PyTree | None = None
    zero_fractions: PyTree | None = None
    key: jax.Array | None = None


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "measured"],
    meta_fields=["path"],
)
@dataclass(frozen=True)
class Leaf:
    """`Evidence` about one weight tensor: float32, every array in the weight's shape.

    Attributes:
        path: the weight's path.
        weight: the weight.
        measured: the fields of `Evidence` that the score needs; for `key`, uniform numbers.
    """

    path: str
    weight: jax.Array
    measured: Mapping[str, jax.Array]

    def __getitem__(self, field: str) -> jax.Array:
        return self.measured[field]

    def view(self, fn: Callable[[jax.Array], jax.Array]) -> "Leaf":
        """The leaf with `fn` (a reshape, a transpose) done to each of its arrays."""
        measured = {name: fn(array) for name, array in self.measured.items()}
        return Leaf(self.path, fn(self.weight), measured)


def leaves(
    evidence: Evidence, chosen: Iterable[str], *, needs: tuple[str, ...], by: str
) -> dict[str, Leaf]:
    """The evidence about each chosen path, holding the fields that score `by` needs.

    Raises:
        ValueError: a needed field was not measured, for the model or for one of the weights, or a
            path is no parameter's.
    """
    weights = paths.flatten(evidence.params)
    trees = {name: paths.flatten(getattr(evidence, name)) for name in needs if name != "key"}
    found = {}
    for path in chosen:
        if path not in weights:
            near = ", ".join(paths.nearest(path, weights))
            raise ValueError(f"no parameter {path!r} in Evidence.params; nearest: {near}")
        shape = weights[path].shape
        measured = {}
        for name, tree in trees.items():
            if path not in tree:
                raise ValueError(
                    f"score {by!r} needs Evidence.{name}, which has nothing for {path!r}: "
                    "measure it, or choose a score that does without"
                )
            measured[name] = jnp.broadcast_to(_float32(tree[path]), shape)
        if "key" in needs:
            if evidence.key is None:
                raise ValueError(f"score {by!r} needs Evidence.key: pass jax.random.key(seed)")
            # By path, so that a weight's numbers do not depend on which others are scored.
            key = jax.random.fold_in(evidence.key, zlib.crc32(path.encode()))
            measured["key"] = jax.random.uniform(key, shape)
        found[path] = Leaf(path, _float32(weights[path]), measured)
    return found


def _float32(array: Any) -> jax.Array:
    return jnp.asarray(array).astype(jnp.float32)
