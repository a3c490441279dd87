"""What products of few bits cost beside the floats' on this device, and beside its limits.

`python -m experiments.bench.matmul` (about a minute and a half on 2 CPU cores) times chains of
square layers as `slim.quant.execute` runs them: of a batch as large as the layers (a matmul), where
data are rounded too, and of one example (a GEMV), where only weights are, which decides what
decoding a text costs. A chain holds as many weights as caches do not, in one dispatch. Its peer is
the same chain in bfloat16; on a CPU, where that is emulated, in float32.

The roofline is the longer of bytes / bandwidth and operations / peak, with the bytes that the
format needs, whatever is read: the bandwidth of a triad a + s b and the peak of the fastest float
matmul, both measured in this run, so 8-bit matmuls may beat it; and of the vendor's figures for
that format, where the device is known.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.bench.record import Row, record
from experiments.timing import Latency, in_turn
from slim import quant
from slim.graph import Graph, trace
from slim.quant import Activations, Policy, Quantized, Rule, Weights
from slim.quant.numerics import QTensor, find_format, pack, unpack

PyTree = Any

ROUNDS = 10


@dataclass(frozen=True)
class Scale:
    """How large the bench is: sides of the layers, weights of a chain, entries of a triad."""

    sizes: tuple[int, ...]
    weights: int
    triad: int


CPU = Scale((512, 1024), 2**24, 2**24)
ACCELERATOR = Scale((4096, 8192), 2**30, 2**28)


@dataclass(frozen=True)
class Peaks:
    """What a vendor promises, without sparsity.

    Attributes:
        bandwidth: of the device's memory, bytes a second.
        operations: a second, by format, an addition and a multiplication being two.
    """

    bandwidth: float
    operations: Mapping[str, float]


def _peaks(terabytes: float, bfloat16: float, int8: float, float8: float | None = None) -> Peaks:
    """Of TB/s and tera-operations a second."""
    tera = {"bfloat16": bfloat16, "int8": int8}
    tera |= {} if float8 is None else {"float8_e4m3": float8}
    return Peaks(1e12 * terabytes, {name: 1e12 * each for name, each in tera.items()})


# By `device_kind`: the vendors' data sheets.
VENDORS = {
    "NVIDIA A100-SXM4-40GB": _peaks(1.555, 312, 624),
    "NVIDIA A100-SXM4-80GB": _peaks(2.039, 312, 624),
    "NVIDIA H100 80GB HBM3": _peaks(3.35, 989.4, 1978.9, 1978.9),
    "NVIDIA H200": _peaks(4.8, 989.4, 1978.9, 1978.9),
    "TPU v5 lite": _peaks(0.819, 197, 394),
    "TPU v5": _peaks(2.765, 459, 918),
    "TPU v6 lite": _peaks(1.64, 918, 1836),
}


@dataclass(frozen=True)
class Form:
    """One way to compute the chain.

    Attributes:
        name: of its rows.
        weights: their format.
        data: in place of floats.
        held: how the values of weights lie in memory: `bytes`, one each, as `convert` makes them;
            `packed` by `slim.quant.numerics.pack`; or `int4` of XLA's own.
    """

    name: str
    weights: Weights
    data: Activations | None = None
    held: str = "bytes"


_GROUPS = Weights("int4", 128)
MATMULS = (
    Form("W8A8", Weights(), Activations(symmetric=True)),
    Form("fp8", Weights("float8_e4m3"), Activations("float8_e4m3", symmetric=True)),
)
GEMVS = (
    Form("W8", Weights()),
    Form("W4 a byte each", _GROUPS),
    Form("W4 packed", _GROUPS, held="packed"),
    Form("W4 in XLA's int4", _GROUPS, held="int4"),
)


@dataclass(frozen=True)
class Chain:
    """A product of `rows` examples with `layers` kernels of `(size, size)`, one after the other."""

    size: int
    layers: int
    rows: int

    @property
    def operations(self) -> float:
        """Additions and multiplications."""
        return 2.0 * self.rows * self.layers * self.size**2

    def bytes(self, weights: int, entry: int) -> float:
        """Read and written: `weights` bytes of kernels, and data of `entry` bytes each."""
        return weights + 2.0 * self.layers * self.rows * self.size * entry

    def microseconds(self, seconds: float) -> float:
        """Of one of its products, of the seconds of all."""
        return 1e6 * seconds / self.layers

    def __str__(self) -> str:
        return f"{self.rows}x{self.size} times {self.size}x{self.size}"


def float_type(device: jax.Device) -> Any:
    """The floats that others are compared with: what the device multiplies fast."""
    return jnp.float32 if device.platform == "cpu" else jnp.bfloat16


def has_float8(device: jax.Device) -> bool:
    """Whether the device multiplies 8-bit floats as they are: NVIDIA's from capability 8.9."""
    if device.device_kind in VENDORS:
        return "float8_e4m3" in VENDORS[device.device_kind].operations
    capability = str(getattr(device, "compute_capability", ""))
    major, dot, minor = capability.partition(".")
    return bool(dot) and (int(major), int(minor)) >= (8, 9)


def apply(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """The chain."""
    for kernel in params.values():
        x = x @ kernel
    return x


def prepare(
    graph: Graph, form: Form, params: PyTree, x: jax.Array
) -> tuple[Callable[[], Any], int]:
    """A call that runs the chain in a form; and the bytes that its weights need."""
    sites = quant.assign(graph, Policy((Rule("*", form.weights, form.data),), edges=None))
    scales = quant.calibrate(graph, sites, params, [(x,)])
    small = quant.convert(graph, sites, params, scales)
    run = quant.execute(graph, sites)
    tensors = [state["weights"] for state in small.sites.values()]
    held = _each_weight(small, partial(_hold, how=form.held))
    shape = tensors[0].shape

    def fn(held: Quantized, x: jax.Array) -> Any:
        return run(_each_weight(held, partial(_restore, how=form.held, shape=shape)), x)

    return partial(jax.jit(fn), held, x), sum(q.nbytes for q in tensors)


def _each_weight(small: Quantized, fn: Callable[[QTensor], QTensor]) -> Quantized:
    sites = {n: state | {"weights": fn(state["weights"])} for n, state in small.sites.items()}
    return small._replace(sites=sites)


def _hold(q: QTensor, how: str) -> QTensor:
    if how == "packed":
        return replace(q, values=pack(q.values, q.format))
    return replace(q, values=q.values.astype(jnp.int4)) if how == "int4" else q


def _restore(q: QTensor, how: str, shape: tuple[int, ...]) -> QTensor:
    if how == "packed":
        return replace(q, values=unpack(q.values, q.format, shape))
    return replace(q, values=q.values.astype(find_format(q.format).dtype))


class Timing(NamedTuple):
    """What was measured of a chain.

    Attributes:
        chain: the chain.
        dtype: of its floats.
        latencies: of each form, by name, beside the floats', under the dtype's name.
        weights: by the same names, the bytes that they need.
        multiplied: by the same names, the format that is multiplied.
    """

    chain: Chain
    dtype: str
    latencies: dict[str, Latency]
    weights: dict[str, int]
    multiplied: dict[str, str]


def time_forms(chain: Chain, forms: Sequence[Form], dtype: Any) -> Timing:
    """Each form in turn with the floats, on random numbers."""
    *keys, key = jax.random.split(jax.random.key(0), chain.layers + 1)
    kernel = partial(jax.random.normal, shape=(chain.size, chain.size), dtype=dtype)
    params = {f"layer{i:03}": kernel(each) * chain.size**-0.5 for i, each in enumerate(keys)}
    x = jax.random.normal(key, (chain.rows, chain.size), dtype)
    graph = trace(apply, params, x)
    name = jnp.dtype(dtype).name
    calls: dict[str, Callable[[], Any]] = {name: partial(jax.jit(apply), params, x)}
    weights = {name: sum(each.nbytes for each in params.values())}
    for form in forms:
        calls[form.name], weights[form.name] = prepare(graph, form, params, x)
    multiplied = {name: name} | {
        form.name: form.data.format if form.data else name for form in forms
    }
    return Timing(chain, name, in_turn(calls, rounds=ROUNDS), weights, multiplied)


def triad_bandwidth(entries: int) -> float:
    """Bytes a second that a + s b of float32 reads and writes."""
    a, b = jnp.ones(entries, jnp.float32), jnp.ones(entries, jnp.float32)
    call = partial(jax.jit(lambda a, b, s: a + s * b), a, b, jnp.float32(3))
    return 3 * a.nbytes / in_turn({"triad": call}, rounds=ROUNDS)["triad"].median_s


def report(timings: Sequence[Timing], bandwidth: float, vendor: Peaks | None) -> list[Row]:
    """The rows: each product's microseconds beside the floats' and beside the rooflines."""
    peak = max(t.chain.operations / t.latencies[t.dtype].median_s for t in timings)
    figures = (("bandwidth", bandwidth, "GB/s"), (f"{timings[0].dtype} matmul", peak, "Gop/s"))
    promised: tuple[float | None, float | None] = (None, None)
    if vendor:
        promised = (1e-9 * vendor.bandwidth, 1e-9 * vendor.operations[timings[0].dtype])
    rows = [
        Row(name, 1e-9 * figure, peer, unit=unit)
        for (name, figure, unit), peer in zip(figures, promised, strict=True)
    ]
    for timing in timings:
        rows += _beside_floats(timing)
        rows += _beside_roofline(timing, "measured roofline", bandwidth, lambda _: peak)
        if vendor:
            name = "vendor's roofline"
            rows += _beside_roofline(timing, name, vendor.bandwidth, vendor.operations.get)
    return rows


def _beside_floats(timing: Timing) -> list[Row]:
    floats = timing.latencies[timing.dtype]
    return [
        Row(
            f"{timing.chain}: {name} over {timing.dtype}",
            timing.chain.microseconds(each.median_s),
            timing.chain.microseconds(floats.median_s),
            unit="us",
            paired=each.ratio(floats),
        )
        for name, each in timing.latencies.items()
        if each is not floats
    ]


def _beside_roofline(
    timing: Timing, roofline: str, bandwidth: float, peak: Callable[[str], float | None]
) -> list[Row]:
    """Of the formats whose peak is known."""
    chain, rows = timing.chain, []
    for name, latency in timing.latencies.items():
        operations = peak(timing.multiplied[name])
        if operations is None:
            continue
        moved = chain.bytes(timing.weights[name], jnp.dtype(timing.dtype).itemsize)
        bound = max(moved / bandwidth, chain.operations / operations)
        ours, peer = map(chain.microseconds, (latency.median_s, bound))
        rows.append(Row(f"{chain}: {name} over the {roofline}", ours, peer, unit="us"))
    return rows


def measure(scale: Scale, device: jax.Device) -> list[Row]:
    """All rows, for the device that JAX computes on."""
    matmuls = [form for form in MATMULS if form.name != "fp8" or has_float8(device)]
    if len(matmuls) < len(MATMULS):
        print(f"no rows of fp8: {device.device_kind} does not multiply 8-bit floats")
    dtype = float_type(device)
    timings = []
    for size in scale.sizes:
        layers = max(1, scale.weights // size**2)
        timings.append(time_forms(Chain(size, layers, rows=size), matmuls, dtype))
        timings.append(time_forms(Chain(size, layers, rows=1), GEMVS, dtype))
    return report(timings, triad_bandwidth(scale.triad), VENDORS.get(device.device_kind))


def main() -> None:
    """Measures at the sizes asked for and records."""
    device = jax.devices()[0]
    scale = CPU if device.platform == "cpu" else ACCELERATOR
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--size", type=int, nargs="+", default=scale.sizes, help="sides of the square layers"
    )
    sizes = tuple(parser.parse_args().size)
    record("matmul", measure(replace(scale, sizes=sizes), device))


if __name__ == "__main__":
    main()
