r"""What a graph costs: multiply-accumulates, FLOPs, bytes and parameters, per site and in total.

Counted from shapes alone; nothing is compiled or run. Conventions:

* **MACs** are the literature's: contractions only, padding counted as if it were data, the holes
  of a dilated (transposed) convolution's input not counted. ResNet-50 at 224 has 4.09 G.
* **FLOPs** are what must be executed: twice the products of a contraction that meet data (a tap
  on padding costs nothing), one per result of an elementwise operation, n - 1 for a reduction of
  n, n log2 n for a sort. XLA counts alike, but keeps transcendental operations apart.
* **bytes** are operands read plus results written by every operation alone. Fusion only lowers
  it: an upper bound on the program's traffic, exact for a contraction by itself.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from slim.graph import primitives
from slim.graph.inner import CALLS, inner_jaxprs
from slim.graph.origins import Origins
from slim.graph.trace import Graph, source_line


@dataclass(frozen=True)
class Row:
    """The cost of one site (a contraction), or of all other uses of one primitive together.

    Attributes:
        name: the paths of the parameters that feed the site, joined by ` + `; the primitive and
            its source line where none does; the primitive alone for a sum over many uses.
        primitive: the primitive's name.
        params: the paths of the parameters that feed the site.
        macs: multiply-accumulates.
        flops: floating-point operations.
        bytes: bytes read and written.
        times: how often it runs in one call.
    """

    name: str
    primitive: str
    params: tuple[str, ...]
    macs: int
    flops: int
    bytes: int
    times: int = 1


@dataclass(frozen=True)
class Cost:
    """The cost of one call of a graph's function.

    Attributes:
        rows: one per site in program order, then one per other primitive that costs FLOPs.
        macs: multiply-accumulates of all contractions.
        flops: floating-point operations.
        bytes: bytes read and written, an upper bound.
        params: entries of all parameters.
        param_bytes: their bytes.
        activation_bytes: bytes of every intermediate value together: an upper bound on what a
            backward pass may keep.
        unknown_trips: the source lines of `while` loops, whose bodies are counted once because
            how often they run depends on data.
    """

    rows: tuple[Row, ...]
    macs: int
    flops: int
    bytes: int
    params: int
    param_bytes: int
    activation_bytes: int
    unknown_trips: tuple[str, ...] = ()


@dataclass
class _Count:
    """A running count over one jaxpr."""

    sites: list[Row] = field(default_factory=list)
    others: dict[str, Row] = field(default_factory=dict)
    activation_bytes: int = 0
    bytes: int = 0
    unknown_trips: list[str] = field(default_factory=list)

    @property
    def flops(self) -> int:
        return sum(row.flops for row in (*self.sites, *self.others.values()))

    def add(self, other: "_Count") -> None:
        self.sites += other.sites
        for row in other.others.values():
            self.add_other(row)
        self.activation_bytes += other.activation_bytes
        self.bytes += other.bytes
        self.unknown_trips += other.unknown_trips

    def add_other(self, row: Row) -> None:
        old = self.others.get(row.name)
        if old is not None:
            row = Row(
                row.name,
                row.primitive,
                (),
                0,
                old.flops + row.flops,
                old.bytes + row.bytes,
                old.times + row.times,
            )
        self.others[row.name] = row


def cost(graph: Graph, platform: str | None = None) -> Cost:
    """The cost of one call of `graph`'s function at the shapes that it was traced at.

    A scan's body counts as often as it runs, a `cond` as its dearest branch, a `while` body once
    (and its line is in `unknown_trips`), what is inside `shard_map` once for each device. Of what
    is chosen by the platform (`jax.lax.platform_dependent`) counts that of `platform`, if given.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> dense = trace(lambda w, x: x @ w, shape((3, 4), "float32"), shape((2, 3), "float32"))
    >>> cost(dense).macs, cost(dense).flops
    (24, 48)
    """
    count = _count(graph.jaxpr.jaxpr, Origins.of(graph), 1, (), platform)
    shapes = graph.param_shapes.values()
    return Cost(
        rows=(*count.sites, *count.others.values()),
        macs=sum(row.macs for row in count.sites),
        flops=count.flops,
        bytes=count.bytes,
        params=sum(math.prod(shape.shape) for shape in shapes),
        param_bytes=sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in shapes),
        activation_bytes=count.activation_bytes,
        unknown_trips=tuple(dict.fromkeys(count.unknown_trips)),
    )


def _count(
    jaxpr: Jaxpr,
    origins: Origins,
    times: int,
    callers: tuple[JaxprEqn, ...],
    platform: str | None,
) -> _Count:
    count = _Count()
    for eqn in jaxpr.eqns:
        inner = inner_jaxprs(eqn)
        if not inner:
            _count_operation(eqn, origins, times, callers, count)
            origins.pass_on(eqn)
            continue
        parts = []
        for each in inner:
            inside = origins.enter(eqn, each)
            runs = _devices(eqn) if each.times is None else each.times * _devices(eqn)
            parts.append(_count(each.jaxpr, inside, times * runs, (eqn, *callers), platform))
            if eqn.primitive.name in CALLS:
                origins.leave(eqn, each, inside)
        if eqn.primitive.name == "cond":
            own = _branch(eqn, platform)
            parts = [max(parts, key=lambda part: part.flops) if own is None else parts[own]]
        for part in parts:
            count.add(part)
        if any(each.times is None for each in inner):
            count.unknown_trips.append(source_line(eqn, callers))
    return count


def _branch(eqn: JaxprEqn, platform: str | None) -> int | None:
    """Which branch of a `cond` runs on a platform; None where that is not what it depends on."""
    of_each = eqn.params.get("branches_platforms")
    if platform is None or of_each is None:
        return None
    found = (i for i, names in enumerate(of_each) if names is None or platform in names)
    return next(found, None)


def _devices(eqn: JaxprEqn) -> int:
    """How many devices each run what is inside, on a part of the data that has its own shape."""
    if eqn.primitive.name != "shard_map":
        return 1
    sizes = eqn.params["mesh"].shape
    return math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])


def _count_operation(
    eqn: JaxprEqn,
    origins: Origins,
    times: int,
    callers: tuple[JaxprEqn, ...],
    count: _Count,
) -> None:
    written = sum(nbytes(var.aval) for var in eqn.outvars)
    moved = (written + sum(nbytes(var.aval) for var in eqn.invars)) * times
    count.activation_bytes += written * times
    count.bytes += moved
    name = eqn.primitive.name
    contraction = CONTRACTIONS.get(name)
    if contraction is not None:
        macs, products = contraction(eqn)
        feeding = origins.feeding(eqn)
        count.sites.append(
            Row(
                name=" + ".join(feeding) or f"{name} at {source_line(eqn, callers)}",
                primitive=name,
                params=feeding,
                macs=macs * times,
                flops=2 * products * times,
                bytes=moved,
                times=times,
            )
        )
    elif flops := _other_flops(eqn):
        count.add_other(Row(name, name, (), 0, flops * times, moved, times))


def nbytes(aval: object) -> int:
    """The bytes of a value; 0 for what has no shape (a token)."""
    shape, dtype = getattr(aval, "shape", None), getattr(aval, "dtype", None)
    return 0 if shape is None or dtype is None else math.prod(shape) * dtype.itemsize


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: Any) -> int:
    return math.prod(_shape(var))


def _dot_general(eqn: JaxprEqn) -> tuple[int, int]:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    macs = _size(eqn.outvars[0]) * math.prod(_shape(eqn.invars[0])[d] for d in contracted)
    return macs, macs


def _ragged_dot(eqn: JaxprEqn) -> tuple[int, int]:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    taken = {*contracted, *batch, *numbers.rhs_group_dimensions}
    free = [n for d, n in enumerate(_shape(eqn.invars[1])) if d not in taken]
    macs = _size(eqn.invars[0]) * math.prod(free)
    return macs, macs


def _conv(eqn: JaxprEqn) -> tuple[int, int]:
    lhs, rhs, out = map(_shape, (*eqn.invars[:2], eqn.outvars[0]))
    numbers = eqn.params["dimension_numbers"]
    macs = products = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
    for d in range(len(lhs) - 2):
        with_padding, on_data = window_taps(
            lhs[numbers.lhs_spec[d + 2]],
            rhs[numbers.rhs_spec[d + 2]],
            out[numbers.out_spec[d + 2]],
            stride=eqn.params["window_strides"][d],
            pad=eqn.params["padding"][d][0],
            lhs_dilation=eqn.params["lhs_dilation"][d],
            rhs_dilation=eqn.params["rhs_dilation"][d],
        )
        macs, products = macs * with_padding, products * on_data
    return macs, products


def window_taps(
    size: int,
    kernel: int,
    out: int,
    *,
    stride: int = 1,
    pad: int = 0,
    lhs_dilation: int = 1,
    rhs_dilation: int = 1,
) -> tuple[int, int]:
    """(output position, kernel tap) pairs of one dimension: with padding, and on data alone.

    A pair at position `o * stride - pad + t * rhs_dilation` of the dilated input counts unless it
    falls on a hole between the input's entries.

    >>> window_taps(4, 3, 4, pad=1)
    (12, 10)
    """
    at = stride * np.arange(out)[:, None] - pad + rhs_dilation * np.arange(kernel)
    entry = at % lhs_dilation == 0
    inside = (at >= 0) & (at <= (size - 1) * lhs_dilation)
    return int(entry.sum()), int((entry & inside).sum())


CONTRACTIONS = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "ragged_dot_general": _ragged_dot,
    "ragged_dot": _ragged_dot,
}
"""Each contraction's (MACs, products that meet data)."""


def _other_flops(eqn: JaxprEqn) -> int:
    name, out = eqn.primitive.name, sum(_size(var) for var in eqn.outvars)
    if name in primitives.ELEMENTWISE:
        return 0 if name in primitives.MOVES else out
    operand = 0 if not eqn.invars or isinstance(eqn.invars[0], Literal) else _size(eqn.invars[0])
    if name in primitives.REDUCTIONS or name in ("argmax", "argmin", "reduce"):
        return max(operand - out, 0)
    if name in primitives.CUMULATIVE:
        return out
    if name in primitives.WINDOWS:
        return out * (math.prod(eqn.params["window_dimensions"]) - 1)
    if name in ("sort", "top_k"):
        return operand * max(1, math.ceil(math.log2(max(operand, 2))))
    return out if name.startswith("scatter") and name != "scatter" else 0
