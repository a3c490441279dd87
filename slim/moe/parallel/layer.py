"""Experts spread over the devices of a mesh: tokens travel to them and back.

`expert_parallel(mesh)` is a `Mix` like the others of `slim.moe.mixture`, for global arrays under
`jax.jit`. Inside it is one `jax.shard_map` over the whole mesh, of sizes D (data), F (fsdp),
T (tensor) and P (expert). A device has t = tokens / (D F P) tokens, n = t k rows of them, one for
each of a token's k experts, and E / P experts. In a step it

1. gathers its experts' weights over `fsdp`;
2. sorts its rows by expert, tells its group sizes to the others on `expert`, and sends each row
   to the device of its expert;
3. computes the received rows by a grouped matmul, with its part of the hidden units;
4. sends the results back, adds them up with the gates, and sums that over `tensor`.

What a device sends, in elements, in one forward pass (and E P integers of group sizes):

    rows       2 n width (P - 1) / P       ragged_all_to_all, in balance
               2 r width (P - 1) / P       all_to_all
               (n + r) width (P - 1)       all_gather
    weights    3 (E / P) width hidden / T (F - 1) / F
    sums       2 t width (T - 1) / T

A backward pass sends as much again, and the gradients of its own part of the weights to be summed
over `data`; one that computes the layer again (`jax.checkpoint`), twice as much. That is
2 k width (P - 1) / P elements a token on `expert` in a pass, whatever E is. And a device holds

    weights    3 (E / P) width hidden / T, whole along fsdp while the layer runs
    received   r (3 width + 3 hidden / T), r = min(buffer_factor n, P t min(k, E / P))

where r is the rows of the buffer it receives in. The second bound is certain to be enough when a
token's experts are distinct; a buffer factor near 2 is enough for a balanced router. Rows that
find no room are dropped, their share of the output is zero, and they are counted.

In several `parts`, steps 2 to 5 are done for a part of the tokens after the other, and a backward
pass computes each part again: then t and n above are those of a part in what is held.
"""

import jax
from jax.sharding import Mesh, PartitionSpec

from slim.moe import dispatch
from slim.moe.experts import Experts, swiglu
from slim.moe.grouped import backend_for, backend_named
from slim.moe.mixture import Mix, check, combine
from slim.moe.parallel.axes import (
    AXES,
    Axes,
    Gathered,
    check_mesh,
    check_shapes,
    gather,
    token_spec,
    weight_specs,
)
from slim.moe.parallel.exchange import carry, exchange_for, exchange_named
from slim.moe.parallel.plan import buffer_rows, plan, regrouped


def expert_parallel(
    mesh: Mesh,
    *,
    axes: Axes = AXES,
    exchange: str | None = None,
    backend: str | None = None,
    buffer_factor: float | None = 2.0,
    gathered: Gathered = "width",
    parts: int = 1,
) -> Mix:
    """A `Mix` over the devices of `mesh`, for global arrays.

    Args:
        mesh: with automatic axes, of the platform it is compiled for.
        axes: names of its axes.
        exchange: a name in `EXCHANGES`; None takes the platform's.
        backend: a name in `slim.moe.grouped.BACKENDS`; None takes the platform's.
        buffer_factor: rows that a device can receive over those it sends; None makes room for
            whatever the router does.
        gathered: the dimension of the weights that is split over `fsdp` (see `weight_specs`).
        parts: of a device's tokens, one after the other.

    Raises:
        ValueError: an argument that is not allowed; when called, sizes that the mesh does not
            divide.
    """
    check_mesh(mesh, axes)
    if buffer_factor is not None and not buffer_factor > 0:
        raise ValueError(
            f"buffer_factor is {buffer_factor}; allowed: above 0, such as 2.0, or None for a "
            "buffer that is always big enough"
        )
    if parts < 1:
        raise ValueError(f"parts is {parts}; allowed: at least 1")
    platform = mesh.devices.flat[0].platform
    devices = mesh.shape[axes.expert]
    chosen = exchange_named(exchange or exchange_for(platform, devices))
    grouped = backend_named(backend or backend_for(platform))

    def local(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        whole = gather(jax.lax.pcast(weights, axes.data, to="varying"), axes, gathered)
        # Over `tensor` results are partial sums: the gradients of x and gates are summed there.
        x, gates = jax.lax.pcast((x, gates), axes.tensor, to="varying")

        def part(of: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, experts, gates = of
            order, inverse, sizes = dispatch.sort(experts, whole.gate.shape[0] * devices)
            rows = dispatch.permute(x, order, inverse)
            results, fit = there_and_back(whole, rows, sizes, experts.shape[1])
            return combine(results, order, inverse, gates), sizes.sum() - fit

        if parts == 1:
            y, missing = part((x, experts, gates))
        else:
            split = jax.tree.map(lambda a: a.reshape(parts, -1, a.shape[1]), (x, experts, gates))
            y, missing = jax.lax.map(jax.checkpoint(part), split)
            y, missing = y.reshape(x.shape), missing.sum()
        return jax.lax.psum(y, axes.tensor), jax.lax.psum(missing, axes.tokens)

    def there_and_back(
        weights: Experts, rows: jax.Array, sizes: jax.Array, k: int
    ) -> tuple[jax.Array, jax.Array]:
        held = weights.gate.shape[0]
        certain = rows.shape[0] // k * min(k, held)
        room, most = buffer_rows(rows.shape[0], certain, devices, buffer_factor, chosen.slotted)
        made = plan(jax.lax.all_gather(sizes, axes.expert), room, most)
        me = jax.lax.axis_index(axes.expert)
        mine = jax.lax.dynamic_slice_in_dim(made.kept, me * held, held, axis=1)
        by_expert, by_sender = regrouped(mine, room), regrouped(mine.T, room)
        received = carry(chosen, rows, made.moves, room, most, axes.expert)
        grouped_rows = dispatch.permute(received, by_expert, by_sender)
        y = swiglu(weights, grouped_rows, mine.sum(0), grouped)
        y = dispatch.permute(y, by_sender, by_expert)
        results = carry(chosen, y, made.moves.back(), rows.shape[0], most, axes.expert)
        return results, made.moves.size[me].sum()

    layout = weight_specs(axes, gathered)
    tokens = token_spec(axes)
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(layout, tokens, tokens, tokens),
        out_specs=(tokens, PartitionSpec()),
    )

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        check(weights, x, experts, gates)
        check_shapes(mesh, axes, gathered, weights, x.shape[0], parts)
        weights, x = _together((weights, x))
        return sharded(weights, x, experts, gates)

    return mix


@jax.custom_vjp
def _together(arrays: tuple[Experts, jax.Array]) -> tuple[Experts, jax.Array]:
    """Weights and tokens, whose gradients are all there before a backward pass goes on.

    Else those of whole weights could wait, layer by layer, to be scattered.
    """
    return arrays


_together.defvjp(
    lambda arrays: (arrays, None),
    lambda kept, gradients: (jax.lax.optimization_barrier(gradients),),
)
