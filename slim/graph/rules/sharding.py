"""Functions over the devices of a mesh, and what passes between devices inside them.

A dimension that is divided over devices is frozen; every other passes through. Inside, functions
with derivatives of their own are differentiated as plain ones where they are cut: their rules
cannot be traced outside of the mesh.
"""

from typing import Any

import jax
from jax.extend.core import JaxprEqn

from slim.graph import primitives
from slim.graph.axes import Dims
from slim.graph.inner import inner_jaxprs
from slim.graph.rules.control import call_removed
from slim.graph.rules.elementwise import each_alone
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed, only_zero
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, shape_of

WHY = "it is divided over devices"


def _across(flow: Flow, dims: Dims, spec: jax.sharding.PartitionSpec, shape: Any) -> Dims:
    """The axes on the other side of a mesh's border, where the value has `shape`."""
    names = (*spec, *(None,) * (len(dims) - len(spec)))
    flow.freeze([axis for axis, name in zip(dims, names, strict=True) if name is not None], WHY)
    return tuple(
        axis if name is None else flow.frozen(size, WHY)
        for axis, name, size in zip(dims, names, shape, strict=True)
    )


def shard_map_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Undivided dimensions pass both borders."""
    (inner,) = inner_jaxprs(eqn)
    local = [
        _across(flow, dims, spec, shape_of(var))
        for dims, spec, var in zip(ins, eqn.params["in_specs"], inner.jaxpr.invars, strict=True)
    ]
    outs = flow.enter(inner.jaxpr, inner.consts, local, derivative=True)
    return [
        _across(flow, dims, spec, shape_of(var))
        for dims, spec, var in zip(outs, eqn.params["out_specs"], eqn.outvars, strict=True)
    ]


def shard_map_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """The small inside over the same mesh."""
    params = step.params
    fn = jax.shard_map(
        lambda *args: resize.run(step.inner[0], args),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )
    return list(fn(*args))


def exchange_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The dimension along which devices exchange is frozen."""
    scatters = eqn.primitive.name == "reduce_scatter"
    d = eqn.params["scatter_dimension" if scatters else "all_gather_dimension"]
    sizes = shape_of(eqn.outvars[0])
    if not eqn.params["tiled"]:
        flow.freeze(ins[0], WHY)
        return [tuple(flow.frozen(size, WHY) for size in sizes)]
    flow.freeze([ins[0][d]], WHY)
    return [(*ins[0][:d], flow.frozen(sizes[d], WHY), *ins[0][d + 1 :])]


def each_zero(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Each result is zero where the operand in its place is; nothing else is known."""
    return [only_zero(each) for each in known[: len(step.outs)]]


ALONE = primitives.names("psum psum2 psum_invariant pmax pmin ppermute")
EXCHANGES = primitives.names("all_gather all_gather_invariant reduce_scatter")

RULES = {
    "shard_map": Rule(shard_map_axes, call_removed, shard_map_replay),
    **{name: Rule(each_alone, each_zero, unchanged) for name in ALONE},
    **{name: Rule(exchange_axes, each_zero, unchanged) for name in EXCHANGES},
}
