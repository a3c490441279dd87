"""The perceptrons: SwiGLU, and DeepSeekMoE's mixture of it (arXiv:2401.06066; V3's section 2.1.2).

Who computes the routed experts is not decided here: a `Mix` (`slim.moe.mixture`) does, on one
device or on many.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.deepseek.config import DeepSeekConfig
from slim.models.deepseek.sharding import Layout, constrain, whole
from slim.moe.balance import AUXILIARY_LOSSES, update_bias
from slim.moe.compress.merge import remapped
from slim.moe.experts import Experts
from slim.moe.load import load
from slim.moe.mixture import Mix
from slim.paths import flatten, unknown_name

PyTree = Any


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x): Shazeer, arXiv:2002.05202."""

    hidden: int
    init_std: float
    dtype: DTypeLike = jnp.float32
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., width)` to the same shape."""
        width = x.shape[-1]
        gate = self._matrix("gate", width, self.hidden)
        up = self._matrix("up", width, self.hidden)
        down = self._matrix("down", self.hidden, width)
        hidden = nn.silu(x @ gate) * (x @ up)
        return constrain(hidden, self.layout, columns=True) @ down

    def _matrix(self, name: str, rows: int, columns: int) -> jax.Array:
        init = nn.initializers.normal(self.init_std)
        matrix = jnp.asarray(self.param(name, init, (rows, columns)), self.dtype)
        return whole(matrix, name, self.layout)


class Routed(nn.Module):
    """The weights of a layer's routed experts."""

    config: DeepSeekConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Experts:
        """In `dtype`."""
        c, init = self.config, nn.initializers.normal(self.config.init_std)
        count, width, hidden = c.distinct, c.width, c.expert_hidden
        wide, back = (count, width, hidden), (count, hidden, width)
        return Experts(
            gate=jnp.asarray(self.param("gate", init, wide), self.dtype),
            up=jnp.asarray(self.param("up", init, wide), self.dtype),
            down=jnp.asarray(self.param("down", init, back), self.dtype),
        )


class MoE(nn.Module):
    """Shared experts, and those that the router chooses, added up (V3's eq. 12 to 16).

    Its logits, affinities and gates are float32. What `Auxiliary` is made of is sown, and so are
    logits; the bias is the variable `bias` of the collection `router`, and has moved towards
    balance after a call with `train` in which that is mutable. Where experts were merged,
    `assignment` there says which became which.
    """

    config: DeepSeekConfig
    mix: Mix
    auxiliary: tuple[str, ...] = ()
    dtype: DTypeLike = jnp.float32
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, length, width)` to the same shape."""
        c = self.config
        logits = nn.Dense(
            c.experts,
            use_bias=False,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=nn.initializers.normal(c.init_std),
            name="router",
        )(x)
        bias = (
            self.variable("router", "bias", jnp.zeros, (c.experts,), jnp.float32)
            if c.bias_rate
            else None
        )
        routing = c.make_router().route(logits, None if bias is None else bias.value)

        def by_token(a: jax.Array) -> jax.Array:
            return a.reshape(-1, a.shape[-1])

        mix = self.mix
        if c.merged:
            assignment = self.variable("router", "assignment", _evenly, c.experts, c.merged)
            mix = remapped(mix, assignment.value)
        y, dropped = mix(
            Routed(c, self.dtype, name="experts")(),
            by_token(x),
            by_token(routing.experts),
            by_token(routing.gates),
        )
        y = y.reshape(x.shape).astype(x.dtype)
        if c.shared:
            hidden = c.shared * c.expert_hidden
            y = y + SwiGLU(hidden, c.init_std, self.dtype, self.layout, name="shared")(x)
        if self.is_initializing():
            return y

        counted = load(routing, c.experts)
        if bias is not None and train and self.is_mutable_collection("router"):
            bias.value = update_bias(bias.value, counted, c.bias_rate)
        for name in self.auxiliary:
            if name not in AUXILIARY_LOSSES:
                raise ValueError(unknown_name("auxiliary loss", name, AUXILIARY_LOSSES))
            self._give("losses", name, AUXILIARY_LOSSES[name](logits, routing))
        self._give("load", "load", counted)
        self._give("load", "dropped", dropped)
        self._give("logits", "logits", logits)
        return y

    def _give(self, collection: str, name: str, value: jax.Array) -> None:
        """Sows an array itself: each name is given once a call."""
        self.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def _evenly(experts: int, merged: int) -> jax.Array:
    return jnp.arange(experts, dtype=jnp.int32) * merged // experts


class Auxiliary(NamedTuple):
    """What a call says of its layers with experts, the modules that predict ahead last.

    Attributes:
        losses: the auxiliary losses by name, `(layers,)` float32, without their weights.
        load: `(layers, experts)` int32 tokens that chose each expert.
        dropped: `(layers,)` int32 choices that were not computed.
    """

    losses: dict[str, jax.Array]
    load: jax.Array
    dropped: jax.Array

    def loss(self, weights: Mapping[str, float]) -> jax.Array:
        """The sum over layers, each loss times its weight: float32 ().

        Raises:
            ValueError: a weight of a loss that the model does not give.
        """
        for name in weights:
            if name not in self.losses:
                raise ValueError(unknown_name("auxiliary loss", name, self.losses))
        total = jnp.zeros((), jnp.float32)
        for name, weight in weights.items():
            total = total + weight * self.losses[name].sum()
        return total


def auxiliary(sown: Mapping[str, PyTree]) -> Auxiliary:
    """From the variables that `apply` gave as mutable: the collections `losses` and `load`.

    Raises:
        ValueError: there is no load, as of a model without experts.
    """
    if not sown.get("load"):
        raise ValueError(
            "the collection 'load' is missing: call apply with mutable=['router', 'losses', "
            "'load'], of a model that has experts"
        )
    values = flatten(sown["load"]) | flatten(sown.get("losses", {}))
    found: dict[str, list[jax.Array]] = {}
    for path in sorted(values, key=lambda path: (not path.startswith("sparse/"), path)):
        value = values[path] if path.startswith("sparse/") else values[path][None]
        found.setdefault(path.split("/")[-1], []).append(value)
    joined = {name: jnp.concatenate(layers) for name, layers in found.items()}
    counted, dropped = joined.pop("load"), joined.pop("dropped")
    return Auxiliary(joined, counted, dropped)
