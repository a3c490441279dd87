"""The cross-entropy of the next tokens, without all logits in memory at once.

The vocabulary is gone through in parts. Of each token are kept the largest logit so far, m, the
sum z = sum_v exp(s_v - m), and the label's logit; a part's logits are computed again in the
backward pass. Over a mesh, of a part of the head the devices gather their shares, one part at a
time, and the gradients of these are scattered back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.models.deepseek.sharding import Layout, axes_of, spec

Sums = tuple[jax.Array, jax.Array, jax.Array]


class Foretold(NamedTuple):
    """How well tokens were told; of the labels' shape.

    Attributes:
        loss: -log softmax(logits)[label] in nats, float32.
        right: whether no logit was larger than the label's.
    """

    loss: jax.Array
    right: jax.Array


def foretell(
    states: jax.Array, head: jax.Array, labels: jax.Array, parts: int, layout: Layout | None
) -> Foretold:
    """Compares `states head` with the labels.

    Args:
        states: `(batch, length, width)`.
        head: `(width, vocabulary)`.
        labels: int `(batch, length)`.
        parts: into how many the vocabulary is divided, of each device's share of the head.
        layout: where activations lie, if on several devices.

    Raises:
        ValueError: the parts do not divide a share.
    """
    if layout is None:
        return _local(states, head, labels, parts, (), (), ())
    place = spec("head", head.shape, layout.mesh.shape)
    rows, columns = axes_of(place, 2)
    split = tuple(axis for axis in columns if axis in layout.columns)
    gathered = tuple(axis for axis in columns if axis not in split)
    batch = jax.P(layout.batch)

    def local(states: jax.Array, head: jax.Array, labels: jax.Array) -> Foretold:
        others = tuple(axis for axis in layout.batch if axis not in rows + columns)
        head = jax.lax.pcast(head, others, to="varying")
        return _local(states, head, labels, parts, rows, gathered, split)

    sharded = jax.shard_map(
        local, mesh=layout.mesh, in_specs=(batch, place, batch), out_specs=batch
    )
    found: Foretold = sharded(states, head, labels)
    return found


def _local(
    states: jax.Array,
    head: jax.Array,
    labels: jax.Array,
    parts: int,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    split: tuple[str, ...],
) -> Foretold:
    """On one device, of the axes that rows and columns of the head are gathered over.

    And of those over which its columns stay split, and the sums are summed.
    """
    share = head.shape[1]
    if parts < 1 or share % parts:
        raise ValueError(f"parts is {parts}; allowed: a divisor of {share} columns of the head")
    each = share // parts
    shares = jax.lax.axis_size(columns) if columns else 1
    first = jax.lax.axis_index(split) * shares * share if split else jnp.int32(0)
    # Where the columns of a part's gathered shares are, less the part's place in each share.
    places = first + (jnp.arange(shares)[:, None] * share + jnp.arange(each)).ravel()
    if split:
        states, labels = jax.lax.pcast((states, labels), split, to="varying")
    dtype = head.dtype
    states = states.astype(jnp.float32)  # for its gradient, a sum over parts

    @jax.checkpoint
    def visit(sums: Sums, part: tuple[jax.Array, jax.Array]) -> tuple[Sums, None]:
        top, total, target = sums
        begin, piece = part
        if rows:
            piece = jax.lax.all_gather(piece, rows, axis=0, tiled=True)
        if columns:
            piece = jax.lax.all_gather(piece, columns, axis=1, tiled=True)
        logits = jnp.matmul(states.astype(dtype), piece, preferred_element_type=jnp.float32)
        higher = jnp.maximum(top, jax.lax.stop_gradient(logits).max(-1))
        total = total * jnp.exp(top - higher) + jnp.exp(logits - higher[..., None]).sum(-1)
        own = places + begin == labels[..., None]
        return (higher, total, target + jnp.where(own, logits, 0).sum(-1)), None

    zeros = jnp.zeros_like(labels, jnp.float32)
    pieces = head.reshape(-1, parts, each).swapaxes(0, 1)
    begins = jnp.arange(parts, dtype=places.dtype) * each
    (top, total, target), _ = jax.lax.scan(
        visit, (jnp.full_like(zeros, -jnp.inf), zeros, zeros), (begins, pieces)
    )
    if split:
        most = jax.lax.pmax(top, split)
        total, target = jax.lax.psum((total * jnp.exp(top - most), target), split)
        top = most
    return Foretold(top + jnp.log(total) - target, target >= top)
