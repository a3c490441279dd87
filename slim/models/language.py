"""Models of language as a recipe gives them: a decoder's sizes, and the losses it is trained by.

model = LanguageModel(num_classes=4096, experts=8)
model.decoder()                        # slim.models.deepseek.DeepSeek, a Flax module
model.loss_weights                     # {"sequence": ...}, of the losses that it sows
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from slim.models.deepseek import CONFIGS, DeepSeek, DeepSeekConfig, Layout, Yarn
from slim.moe.balance import AUXILIARY_LOSSES
from slim.moe.mixture import Mix, buckets, dropless
from slim.paths import unknown_name


def _from_zero(default: int) -> Any:
    """A number that may be 0; see `slim.models.create`."""
    return field(default=default, metadata={"least": 0})


@dataclass(frozen=True)
class LanguageModel:
    """A decoder and how it is trained; sizes are those of `DeepSeekConfig`, small by default.

    Attributes:
        num_classes: tokens of the vocabulary.
        dtype: of matrix products.
        yarn: how rotary embeddings are stretched, if they are.
        dense: whether perceptrons that compute as much a token stand for all experts; see
            `DeepSeekConfig.dense`.
        bias_rate: the step gamma of the routers' biases, which keep experts in balance without a
            loss; 0 for no biases.
        balance_loss: another way: an auxiliary loss of `slim.moe.balance.AUXILIARY_LOSSES`.
        balance_weight: its weight, summed over layers; 0 for none.
        z_weight: that of the loss that keeps routers' logits small; 0 for none.
        ahead_weight: of the mean loss of the tokens after the next (lambda of V3's eq. 25).
        capacity: of an expert, over its fair share of the tokens: what is beyond it is dropped, and
            counted; 0 for no limit.
        remat: whether layers are computed again in the backward pass instead of kept.
        attention_block: see `DeepSeek`.
        attention_heads: likewise.
        expert_parts: parts in which a device's tokens go to experts on others, one after the other.
        expert_buffer: rows that a device can receive then, over those that it sends; 0: as many as
            there may be. See `slim.moe.parallel.expert_parallel`, also for the parts.
        vocabulary_parts: in training, parts of the vocabulary whose logits are in memory at a time;
            0: all are, as they must be with label smoothing. See `DeepSeek.foretell`.

    Raises:
        ValueError: an unknown loss, a weight below 0, or sizes that do not fit.

    >>> model = LanguageModel(num_classes=512, balance_weight=1e-3)
    >>> model.config.experts, model.loss_weights
    (8, {'sequence': 0.001})
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    yarn: Yarn | None = None
    dense: bool = False

    width: int = 128
    depth: int = 4
    dense_layers: int = _from_zero(1)
    heads: int = 4
    query_rank: int = _from_zero(0)
    latent: int = 64
    head_width: int = 32
    rotary_width: int = 16
    value_width: int = 32
    hidden: int = 384
    experts: int = 8
    active: int = 2
    shared: int = _from_zero(1)
    expert_hidden: int = 128
    merged: int = 0
    router: str = "sigmoid"
    normalize: bool = True
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    predict_ahead: int = _from_zero(0)
    base: float = 10_000.0
    epsilon: float = 1e-6
    init_std: float = 0.02

    bias_rate: float = 1e-3
    balance_loss: str = "sequence"
    balance_weight: float = 0.0
    z_weight: float = 0.0
    ahead_weight: float = 0.3
    capacity: float = 0.0
    remat: bool = False
    attention_block: int = _from_zero(0)
    attention_heads: int = _from_zero(0)
    expert_parts: int = 1
    expert_buffer: float = 2.0
    vocabulary_parts: int = _from_zero(0)

    def __post_init__(self) -> None:
        if self.balance_loss not in AUXILIARY_LOSSES:
            raise ValueError(unknown_name("balance_loss", self.balance_loss, AUXILIARY_LOSSES))
        if self.balance_loss == "z":
            raise ValueError("balance_loss = 'z' keeps nothing in balance; its weight is z_weight")
        for name in (*("balance_weight", "z_weight", "ahead_weight", "capacity", "expert_buffer"),):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0")
        _ = self.config

    @property
    def config(self) -> DeepSeekConfig:
        """The decoder's sizes."""
        sizes = {each.name: getattr(self, each.name) for each in _SIZES}
        config = DeepSeekConfig(vocabulary=self.num_classes, **sizes)
        return config.dense() if self.dense else config

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the losses that layers sow, by name; {} of a dense decoder."""
        if not self.config.sparse_layers:
            return {}
        weights = {self.balance_loss: self.balance_weight, "z": self.z_weight}
        return {name: weight for name, weight in weights.items() if weight}

    def decoder(self, mix: Mix | None = None, layout: Layout | None = None) -> DeepSeek:
        """The Flax module.

        Args:
            mix: computes the experts, if that is not on one device; it drops nothing by itself.
            layout: where activations lie, if that is to be fixed.

        Raises:
            ValueError: there is a `mix`, and a capacity too.
        """
        if mix is not None and self.capacity:
            raise ValueError(
                f"capacity = {self.capacity}: experts over several devices have buffers instead; "
                "set it to 0"
            )
        return DeepSeek(
            self.config,
            mix or _mix(self.capacity),
            dtype=self.dtype,
            remat=self.remat,
            auxiliary=tuple(self.loss_weights),
            layout=layout,
            attention_block=self.attention_block,
            attention_heads=self.attention_heads,
        )


@cache
def _mix(capacity: float) -> Mix:
    """One object for equal arguments, so that equal models are equal."""
    return buckets(capacity) if capacity else dropless()


_SIZES = [each for each in fields(DeepSeekConfig) if each.name != "vocabulary"]


def published(name: str) -> Mapping[str, Any]:
    """The fields of `LanguageModel` that `slim.models.deepseek.CONFIGS` has, to be fixed.

    >>> published("v3")["experts"]
    256
    """
    config = CONFIGS[name]
    return {each.name: getattr(config, each.name) for each in _SIZES}
