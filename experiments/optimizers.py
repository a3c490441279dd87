"""Optimizers and learning-rate schedules by name, as Optax has them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from pydantic import Field

from experiments.schema import Schema, one_of
from slim import paths

PyTree = Any


def _piecewise(lr: float, steps: int, end_lr: float) -> optax.Schedule:
    del end_lr
    return optax.piecewise_constant_schedule(lr, {steps // 2: 0.1, steps * 3 // 4: 0.1})


# name -> (peak rate, steps, final rate) -> schedule
SCHEDULES: Mapping[str, Callable[[float, int, float], optax.Schedule]] = {
    "constant": lambda lr, steps, end_lr: optax.constant_schedule(lr),
    "cosine": lambda lr, steps, end_lr: optax.cosine_decay_schedule(lr, steps, end_lr / lr),
    "linear": lambda lr, steps, end_lr: optax.linear_schedule(lr, end_lr, steps),
    # A tenth at half and at three quarters of the way, as He et al. (2016) train on CIFAR.
    "steps": _piecewise,
    "onecycle": lambda lr, steps, end_lr: optax.cosine_onecycle_schedule(max(steps, 4), lr),
}


def _kernels(params: PyTree) -> PyTree:
    """What decays; the norms' scales of a stack of layers have two dimensions too."""
    return paths.map_with_path(
        lambda path, leaf: jnp.ndim(leaf) >= 2 and path.split("/")[-1] != "scale", params
    )


def _sgd(config: "OptimizerConfig", rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_kernels),
        optax.sgd(rate, momentum=config.momentum or None, nesterov=config.momentum > 0),
    )


def _rmsprop(config: "OptimizerConfig", rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_kernels),
        optax.rmsprop(rate, decay=config.beta2, momentum=config.momentum or None),
    )


def _adamw(config: "OptimizerConfig", rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.momentum,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_kernels,
    )


def _adamw_bfloat16(
    config: "OptimizerConfig", rate: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW whose moments are kept in bfloat16 (DeepSeek-V3, arXiv:2412.19437, section 3.3.3).

    Its steps are 2^-8, so a second moment that changes by less in a step stays: beta2 to 0.99.
    """
    inner = _adamw(config, rate)

    def kept(state: optax.OptState, dtype: DTypeLike) -> optax.OptState:
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state
        )

    def init(params: PyTree) -> optax.OptState:
        return kept(inner.init(params), jnp.bfloat16)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        updates, state = inner.update(updates, kept(state, jnp.float32), params)
        return updates, kept(state, jnp.bfloat16)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: Mapping[
    str, Callable[["OptimizerConfig", optax.Schedule], optax.GradientTransformation]
] = {"sgd": _sgd, "adamw": _adamw, "adamw_bfloat16": _adamw_bfloat16, "rmsprop": _rmsprop}


class OptimizerConfig(Schema):
    """How parameters move; shared by every stage that trains.

    Attributes:
        lr: the peak learning rate.
        schedule: a name in `SCHEDULES`.
        warmup_epochs: linear warm-up from 0 before the schedule.
        end_lr: the learning rate that decaying schedules end at.
        optimizer: a name in `OPTIMIZERS`.
        momentum: SGD's momentum; beta 1 of the Adam family.
        beta2: the second moment's decay, in the Adam family and RMSProp.
        weight_decay: on kernels only (two dimensions or more, and no norm's scale). Coupled in SGD
            and RMSProp (an L2 penalty), decoupled in AdamW.
        clip_norm: the largest global norm of the gradient; 0 does not clip.
    """

    lr: Annotated[float, Field(gt=0)] = 0.1
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip_norm: Annotated[float, Field(ge=0)] = 0.0


def learning_rate(config: OptimizerConfig, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step, its warm-up included in the `steps`."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps)
    schedule = SCHEDULES[config.schedule](config.lr, max(steps - warmup, 1), config.end_lr)
    if warmup:
        rising = optax.linear_schedule(0.0, config.lr, warmup)
        schedule = optax.join_schedules([rising, schedule], boundaries=[warmup])
    # Optax's schedules mix the count with floats, which strict promotion refuses of an int.
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


class RateScaleState(NamedTuple):
    """A factor on all updates, lowered when a diverged run is rolled back."""

    rate_scale: jax.Array


def _scale_by_rate() -> optax.GradientTransformation:
    def init(params: PyTree) -> RateScaleState:
        del params
        return RateScaleState(jnp.ones((), jnp.float32))

    def update(
        updates: PyTree, state: RateScaleState, params: PyTree | None = None
    ) -> tuple[PyTree, RateScaleState]:
        del params
        scaled = jax.tree.map(lambda u: u * state.rate_scale.astype(u.dtype), updates)
        return scaled, state

    return optax.GradientTransformation(init, update)


def build(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """The gradient transformation of a config: clip, the optimizer, and a rate scale in its state.

    `set_rate_scale` changes that scale without a new compilation.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, OPTIMIZERS[config.optimizer](config, rate), _scale_by_rate())


def set_rate_scale(opt_state: PyTree, scale: float) -> PyTree:
    """The optimizer's state with all its future updates multiplied by `scale`."""
    return optax.tree_utils.tree_set(opt_state, rate_scale=jnp.float32(scale))
