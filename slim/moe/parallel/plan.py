"""Who sends how many rows to whom, from every device's group sizes.

A device's rows lie sorted by expert, and device d of the expert axis holds experts
[d E/n, (d+1) E/n) of n devices: what goes to one device is one run of rows. All devices know all
group sizes (an all_gather of E int32 each), so all make the same plan and nobody has to ask.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Moves(NamedTuple):
    """One run of rows from every sender to every receiver, as every device knows them.

    Attributes:
        take: `(senders, receivers)` int32, where the run begins among the sender's rows.
        size: `(senders, receivers)` int32, its rows.
        put: `(senders, receivers)` int32, where it begins among the receiver's rows.
    """

    take: jax.Array
    size: jax.Array
    put: jax.Array

    def back(self) -> "Moves":
        """The moves that bring every row back to where it came from."""
        return Moves(self.put.T, self.size.T, self.take.T)


class Plan(NamedTuple):
    """What `plan` decides.

    Attributes:
        moves: of rows sorted by expert into the receivers' buffers, where the runs of the senders
            follow each other without gaps.
        kept: `(senders, experts)` int32, the rows that fit, of each sender for each expert.
    """

    moves: Moves
    kept: jax.Array


def buffer_rows(
    sent: int, certain: int, devices: int, factor: float | None, slotted: bool
) -> tuple[int, int]:
    """The rows of a receiver's buffer, and the most that one sender may send to one receiver.

    Args:
        sent: rows that a device sends.
        certain: rows that it can send to one device, at most.
        devices: senders.
        factor: room over `sent`; None for room that is always enough.
        slotted: whether each sender has its own part of the buffer.

    >>> buffer_rows(sent=100, certain=50, devices=8, factor=1.5, slotted=False)
    (150, 100)
    >>> buffer_rows(sent=100, certain=50, devices=8, factor=1.5, slotted=True)
    (152, 19)
    """
    room = devices * certain
    if factor is not None:
        room = min(math.ceil(factor * sent), room)
    if not slotted:
        return room, sent
    most = -(-room // devices)
    return devices * most, most


def plan(counts: jax.Array, room: int, most: int) -> Plan:
    """Fill every receiver's buffer in the order of the senders, and clip what does not fit.

    With s senders and r receivers,

        wanted[s, r] = min(sum of s's counts over r's experts, most)
        size[s, r]   = min(wanted[s, r], max(room - sum_{s' < s} wanted[s', r], 0))

    The last rows of a run are clipped, so those of the receiver's last experts.

    Args:
        counts: `(senders, experts)` integers, the rows of each sender for each expert.
        room: rows that a receiver's buffer holds.
        most: rows that one sender may send to one receiver.

    >>> made = plan(jnp.array([[2, 1], [3, 0]]), room=4, most=8)
    >>> made.moves.size
    Array([[2, 1],
           [2, 0]], dtype=int32)
    >>> made.moves.put
    Array([[0, 0],
           [2, 1]], dtype=int32)
    """
    devices, experts = counts.shape
    groups = counts.astype(jnp.int32).reshape(devices, devices, experts // devices)
    runs = groups.sum(-1)
    size = _fitting(jnp.minimum(runs, most), room, axis=0)
    kept = _fitting(groups, size[..., None], axis=2).reshape(devices, experts)
    return Plan(Moves(_before(runs, axis=1), size, _before(size, axis=0)), kept)


def regrouped(counts: jax.Array, rows: int) -> jax.Array:
    """Where to read each row from, to turn runs ordered (a, b) into runs ordered (b, a).

    A permutation of `rows`: those after the last run stay where they are. Its inverse is
    `regrouped(counts.T, rows)`, so neither a sort nor a scatter is needed.

    Args:
        counts: `(a, b)` integers, the rows of each run; together at most `rows`.
        rows: rows in the buffer.

    >>> regrouped(jnp.array([[2, 1], [1, 1]]), 6)
    Array([0, 1, 3, 2, 4, 5], dtype=int32)
    """
    lengths = counts.T.ravel()
    begin = _before(counts.ravel(), axis=0).reshape(counts.shape).T.ravel()
    shift = jnp.append(begin - _before(lengths, axis=0), 0)
    at = jnp.arange(rows, dtype=jnp.int32)
    return at + stepwise(at, jnp.cumsum(lengths), shift)


def stepwise(at: jax.Array, bounds: jax.Array, values: jax.Array) -> jax.Array:
    """`values[number of bounds <= at]`, as a sum of steps: no search, no gather.

    Args:
        at: `(rows,)` integers.
        bounds: `(n,)` integers, ascending.
        values: `(n + 1,)` integers, of the intervals between the bounds.

    >>> stepwise(jnp.array([0, 4, 9]), jnp.array([4, 5]), jnp.array([7, 8, 9]))
    Array([7, 8, 9], dtype=int32)
    """
    steps = jnp.where(at[:, None] >= bounds, jnp.diff(values), 0)
    return values[0] + steps.sum(1, dtype=jnp.int32)


def _before(sizes: jax.Array, axis: int) -> jax.Array:
    """The exclusive cumulative sum."""
    return jnp.cumsum(sizes, axis) - sizes


def _fitting(sizes: jax.Array, room: int | jax.Array, axis: int) -> jax.Array:
    """How much of each fits, one after another, into `room`."""
    return jnp.clip(room - _before(sizes, axis), 0, sizes)
