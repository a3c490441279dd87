"""The exchanges that carry rows between the devices of a mesh axis, and the choice among them.

A new one is a function like those here and a line in `EXCHANGES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim import paths
from slim.moe.parallel.plan import Moves, stepwise


class Exchange(NamedTuple):
    """A way to carry rows over one mesh axis.

    Attributes:
        move: `(rows, moves, into, most, axis) -> (into, width)`, called inside `jax.shard_map`:
            each device of the axis gives its `(n, width)` rows and gets the runs that `moves`
            sends to it, zeros where nothing was sent. No run is longer than `most`.
        slotted: every pair of devices has `most` rows of the buffers to itself, so that a run
            may be too long for them while the buffer has room.
    """

    move: Callable[[jax.Array, Moves, int, int, str], jax.Array]
    slotted: bool = False


def ragged_all_to_all(rows: jax.Array, moves: Moves, into: int, most: int, axis: str) -> jax.Array:
    """XLA's own: only the rows that are wanted travel. For TPU and GPU; not for CPU."""
    del most
    me = jax.lax.axis_index(axis)
    return jax.lax.ragged_all_to_all(
        rows,
        jax.lax.full_like(rows, 0, shape=(into, rows.shape[1])),
        moves.take[me],
        moves.size[me],
        moves.put[me],
        moves.size[:, me],
        axis_name=axis,
    )


def all_gather(rows: jax.Array, moves: Moves, into: int, most: int, axis: str) -> jax.Array:
    """The same by giving all rows to all devices, which choose theirs: for CPU."""
    del most
    me = jax.lax.axis_index(axis)
    sender, nth, sent = _arriving(moves, me, into)
    source = sender * rows.shape[0] + moves.take[sender, me] + nth
    return _rows_at(jax.lax.all_gather(rows, axis, tiled=True), source, sent)


def all_to_all(rows: jax.Array, moves: Moves, into: int, most: int, axis: str) -> jax.Array:
    """By slots, as many for every pair of devices, full or not. For any platform.

    What travels does not depend on the routing.
    """
    me = jax.lax.axis_index(axis)
    slot = jnp.arange(most, dtype=jnp.int32)
    source = moves.take[me][:, None] + slot
    slots = _rows_at(rows, source.ravel(), (slot < moves.size[me][:, None]).ravel())
    slots = jax.lax.all_to_all(slots, axis, split_axis=0, concat_axis=0, tiled=True)
    sender, nth, sent = _arriving(moves, me, into)
    return _rows_at(slots, sender * most + nth, sent)


EXCHANGES: dict[str, Exchange] = {
    "ragged_all_to_all": Exchange(ragged_all_to_all),
    "all_gather": Exchange(all_gather),
    "all_to_all": Exchange(all_to_all, slotted=True),
}


def exchange_named(name: str) -> Exchange:
    """The exchange of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXCHANGES:
        raise ValueError(paths.unknown_name("exchange", name, EXCHANGES))
    return EXCHANGES[name]


def exchange_for(platform: str, devices: int) -> str:
    """The name of the exchange for a target platform and this many devices on the axis.

    The target's, not this process's: a program compiled here for a TPU takes the TPU's. On GPUs
    XLA's ragged_all_to_all crashes above 32 ranks (openxla/xla#47283).

    >>> exchange_for("tpu", 256), exchange_for("gpu", 64), exchange_for("cpu", 8)
    ('ragged_all_to_all', 'all_to_all', 'all_gather')
    """
    if platform == "cpu":
        return "all_gather"
    if platform == "tpu" or devices <= 32:
        return "ragged_all_to_all"
    return "all_to_all"


def carry(
    exchange: Exchange, rows: jax.Array, moves: Moves, into: int, most: int, axis: str
) -> jax.Array:
    """Send rows by `exchange`; the gradients of what arrived come back by the reverse moves.

    So both passes are one exchange each. (JAX's own transpose of ragged_all_to_all exchanges the
    offsets twice more, and that of a gather is a scatter-add.)

    Args:
        exchange: one of `EXCHANGES`.
        rows: `(n, width)`, of this device.
        moves: of all devices of the axis.
        into: rows of the result.
        most: rows in the longest run, at least.
        axis: name of the mesh axis.
    """
    out_of = rows.shape[0]

    @jax.custom_vjp
    def sent(rows: jax.Array, moves: Moves) -> jax.Array:
        return exchange.move(rows, moves, into, most, axis)

    def forward(rows: jax.Array, moves: Moves) -> tuple[jax.Array, Moves]:
        return sent(rows, moves), moves

    def backward(moves: Moves, gradient: jax.Array) -> tuple[jax.Array, None]:
        return exchange.move(gradient, moves.back(), out_of, most, axis), None

    sent.defvjp(forward, backward)
    return sent(rows, moves)


def _arriving(moves: Moves, me: jax.Array, into: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each row of the result: its sender, its place in the run, and whether it was sent."""
    at = jnp.arange(into, dtype=jnp.int32)
    begin = moves.put[:, me]
    sender = stepwise(at, begin[1:], jnp.arange(begin.size, dtype=jnp.int32))
    nth = at - begin[sender]
    return sender, nth, nth < moves.size[sender, me]


def _rows_at(rows: jax.Array, index: jax.Array, there: jax.Array) -> jax.Array:
    """`rows[index]` where `there`, else zeros."""
    index = jnp.where(there, index, 0)
    return jnp.where(there[:, None], rows[index], 0)
