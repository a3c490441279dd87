"""The experts' part of a layer beside a dense perceptron, its other forms, and more experts.

    python -m experiments.bench.moe

Each row is the time of one layer of SwiGLU experts, dropless, tokens already having their experts
at random: forward, or forward and backward with all gradients. Its peers are

* a dense SwiGLU perceptron of the same FLOPs, k times as wide inside;
* grouped one-hot einsums (GShard, arXiv:2006.16668), which drop what exceeds 1.25 times the mean
  of a group of 256 tokens;
* sorting and `jax.lax.ragged_dot`, at a small size: on CPU it does E times the work;
* itself with fewer experts of the same size, for as many tokens. All experts' weights are read and
  their gradients written, whatever the tokens: time is flat where an expert has enough of them. At
  512 each it must be; at 128 the row says what it is.

Three minutes at most on 2 quiet cores; on busy ones ratios still mean something, times do not. On
an accelerator everything is larger and in bfloat16, and a last row says how much of the vendor's
peak the layer reaches.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.matmul import VENDORS, float_type
from experiments.bench.record import Row, record
from experiments.timing import in_turn
from slim.moe.experts import Experts, swiglu_rows
from slim.moe.grouped import backend_for
from slim.moe.mixture import Mix, buckets, dropless

PyTree = Any
Passes = Mapping[str, Callable[[], Any]]

ROUNDS = 9
GROUP = 256
CAPACITY_FACTOR = 1.25
FEW, MANY = 8, 64
PASSES = ("forward", "forward and backward")


@dataclass(frozen=True)
class Layer:
    """How large a layer is.

    Attributes:
        tokens: in a batch.
        width: of a token.
        hidden: of an expert.
        experts: in all.
        k: experts of a token.
        dtype: of weights and tokens.
    """

    tokens: int = 4096
    width: int = 256
    hidden: int = 512
    experts: int = 16
    k: int = 2
    dtype: Any = jnp.float32

    @property
    def operations(self) -> float:
        """Of the experts' matmuls in a forward pass; three times that with the backward pass."""
        return 2.0 * 3 * self.tokens * self.k * self.width * self.hidden

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens, {self.k} of {self.experts} experts {self.width}x{self.hidden}"
        )


ACCELERATOR = Layer(32768, 2048, 1024, 16, 2, jnp.bfloat16)


def random_experts(layer: Layer) -> tuple[Experts, jax.Array, jax.Array, jax.Array]:
    """Weights, tokens, k distinct experts for each, and gates."""
    keys = jax.random.split(jax.random.key(0), 6)
    wide = (layer.experts, layer.width, layer.hidden)
    back = (layer.experts, layer.hidden, layer.width)

    def normal(key: jax.Array, shape: tuple[int, ...], deviation: float) -> jax.Array:
        return (deviation * jax.random.normal(key, shape)).astype(layer.dtype)

    weights = Experts(
        normal(keys[0], wide, layer.width**-0.5),
        normal(keys[1], wide, layer.width**-0.5),
        normal(keys[2], back, layer.hidden**-0.5),
    )
    x = normal(keys[3], (layer.tokens, layer.width), 1.0)
    _, experts = jax.lax.top_k(jax.random.uniform(keys[4], (layer.tokens, layer.experts)), layer.k)
    return weights, x, experts, jax.random.uniform(keys[5], (layer.tokens, layer.k))


def mixture_passes(layer: Layer, mix: Mix) -> Passes:
    """Both passes of the layer computed by `mix`."""
    weights, x, experts, gates = random_experts(layer)

    def fn(trained: tuple[Experts, jax.Array, jax.Array], experts: jax.Array) -> jax.Array:
        weights, x, gates = trained
        return mix(weights, x, experts, gates)[0]

    return _passes(fn, (weights, x, gates), experts)


def dense_passes(layer: Layer) -> Passes:
    """Both passes of the perceptron with as many FLOPs."""
    one = random_experts(replace(layer, hidden=layer.k * layer.hidden, experts=1, k=1))
    weights = jax.tree.map(lambda weight: weight[0], one[0])

    def fn(trained: tuple[Experts, jax.Array]) -> jax.Array:
        return swiglu_rows(jnp.matmul, *trained)

    return _passes(fn, (weights, one[1]))


def _passes(fn: Callable[..., jax.Array], trained: PyTree, *rest: PyTree) -> Passes:
    def both(trained: PyTree, *rest: PyTree) -> tuple[jax.Array, PyTree]:
        y, pull = jax.vjp(lambda trained: fn(trained, *rest), trained)
        return y, pull(y)

    return {
        PASSES[0]: partial(jax.jit(fn), trained, *rest),
        PASSES[1]: partial(jax.jit(both), trained, *rest),
    }


def one_hot(capacity_factor: float = CAPACITY_FACTOR, group: int = GROUP) -> Mix:
    """Dispatch and combine by products with one-hot tensors, in groups of tokens."""

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        tokens, k = experts.shape
        size, count = min(group, tokens), weights.gate.shape[0]
        capacity = math.ceil(capacity_factor * size * k / count)
        chosen = jax.nn.one_hot(experts.reshape(-1, size * k), count, dtype=jnp.float32)
        place = ((jnp.cumsum(chosen, 1) - 1) * chosen).sum(-1).astype(jnp.int32)
        slots = chosen[..., None] * jax.nn.one_hot(place, capacity)[..., None, :]
        slots = slots.reshape(-1, size, k, count, capacity)
        combine = jnp.einsum("gskec,gsk->gsec", slots, gates.reshape(-1, size, k)).astype(x.dtype)
        dispatch = slots.sum(2).astype(x.dtype)
        rows = jnp.einsum("gsec,gsd->egcd", dispatch, x.reshape(-1, size, x.shape[1]))
        y = swiglu_rows(jnp.matmul, weights, rows.reshape(count, -1, x.shape[1]))
        y = jnp.einsum("gsec,egcd->gsd", combine, y.reshape(rows.shape))
        return y.reshape(x.shape), experts.size - slots.sum().astype(jnp.int32)

    return mix


def beside(title: str, ours: Passes, peer: Passes, goal: str, rounds: int) -> list[Row]:
    """A row for each pass, the two being timed in turn."""
    rows = []
    for name in PASSES:
        times = in_turn({"ours": ours[name], "peer": peer[name]}, rounds=rounds)
        mine, other = times["ours"], times["peer"]
        figures = (1e3 * mine.median_s, 1e3 * other.median_s)
        rows.append(Row(f"{title}, {name}", *figures, goal, "ms", mine.ratio(other)))
    return rows


def measure(layer: Layer, small: Layer, platform: str, rounds: int = ROUNDS) -> list[Row]:
    """All rows, for a platform."""
    name = backend_for(platform)
    mix = dropless(name)
    ours = mixture_passes(layer, mix)
    rows = beside(f"{layer}: over dense", ours, dense_passes(layer), "<= 1.5", rounds)
    for title, other, goal in (
        ("one-hot einsums", one_hot(), "<= 1.0"),
        (f"buckets of {CAPACITY_FACTOR}", buckets(CAPACITY_FACTOR), ""),
    ):
        rows += beside(f"{layer}: over {title}", ours, mixture_passes(layer, other), goal, rounds)
    ours, ragged = (mixture_passes(small, each) for each in (mix, dropless("ragged")))
    rows += beside(f"{small}: {name} over ragged_dot", ours, ragged, "<= 1.0", rounds)
    for tokens in (layer.tokens, 4 * layer.tokens):
        few = replace(layer, tokens=tokens, experts=FEW)
        many = replace(few, experts=MANY)
        ours, peer = (mixture_passes(each, mix) for each in (many, few))
        rows += beside(f"{many}: over {FEW} experts", ours, peer, "<= 1.3", rounds)
    return rows


def peak_rows(layer: Layer, device: jax.Device, rounds: int = ROUNDS) -> list[Row]:
    """Tera-operations a second of both passes, beside the vendor's peak; none where unknown."""
    if device.device_kind not in VENDORS:
        return []
    peak = VENDORS[device.device_kind].operations[jnp.dtype(layer.dtype).name]
    passes = mixture_passes(layer, dropless(backend_for(device.platform)))
    name = PASSES[1]
    seconds = in_turn({name: passes[name]}, rounds=rounds)[name].median_s
    reached = 3 * layer.operations / seconds
    return [Row(f"{layer}: of the peak, {name}", 1e-12 * reached, 1e-12 * peak, unit="Top/s")]


def main() -> None:
    """Measures and records the rows."""
    device = jax.devices()[0]
    layer = Layer() if device.platform == "cpu" else ACCELERATOR
    small = Layer(tokens=512, width=128, hidden=256, dtype=float_type(device))
    record("moe", [*measure(layer, small, device.platform), *peak_rows(layer, device)])


if __name__ == "__main__":
    main()
