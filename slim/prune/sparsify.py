"""Sparsity during training: masks that live in the optimizer's state."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slim.prune.choose import choose_masks
from slim.prune.distributions import Distribution, global_
from slim.prune.evidence import Evidence
from slim.prune.masks import apply_masks, full_masks
from slim.prune.regrow import Regrow, regrow_masks
from slim.prune.schedules import Schedule
from slim.prune.scores import SCORES, Score
from slim.prune.structures import Structure, unstructured

PyTree = Any

# What an optimizer sees at each step; a score that needs more cannot be computed inside one.
_SEEN = ("grads", "key")


class SparsifyState(NamedTuple):
    """State of `sparsify` and `keep_masks`.

    Attributes:
        masks: bool, in the structure and shapes of the parameters.
        step: int32 scalar, optimizer steps done.
        inner: the wrapped optimizer's state.
    """

    masks: PyTree
    step: jax.Array
    inner: optax.OptState


def sparsify(
    inner: optax.GradientTransformation,
    *,
    schedule: Schedule,
    score: Score = SCORES["l2"],
    distribution: Distribution = global_,
    structure: Structure = unstructured,
    select: Sequence[tuple[str, bool]] = (),
    regrow: Regrow | None = None,
    key: jax.Array | None = None,
    dense: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer under which the parameters grow sparse as `schedule` says.

    At the steps that are due, masks are computed from the parameters before the step and this
    step's gradients. After every step, a removed weight is exactly 0. It gets no gradient, so the
    inner optimizer's moments for it fade; it may come back if its score rises (one of the
    gradient does, a magnitude stays 0).

    Wrap the whole optimizer: a transformation chained after this one would move removed weights.

    Args:
        inner: the optimizer.
        schedule: how much is kept when, and when masks are renewed.
        score: what a weight is worth; of the fields of `Evidence` it may need `grads` and `key`.
        distribution: how the ratio is spread over the tensors.
        structure: what is kept or removed together.
        select: (path pattern, whether to prune) rules; see `prunable`.
        regrow: swap weights when masks are renewed while the keep ratio stands still (RigL, SET),
            within each tensor.
        key: a random key, folded with the step, for scores that need one.
        dense: leave the parameters dense and only keep masks, for a loss that masks them itself by
            `straight_through(find_masks(state), params)`; `apply_masks` makes the sparse model.

    Raises:
        ValueError: a score that needs what an optimizer does not see; `regrow` of a structure other
            than unstructured; in `init`, a rule of `select` that decides nothing; in `update`, no
            `params`.

    >>> from slim.prune import Window, cubic, density, find_masks
    >>> tx = sparsify(optax.sgd(0.1), schedule=cubic(0.25, Window(0, 4, 2)))
    >>> params = {"kernel": jnp.arange(1.0, 9.0).reshape(4, 2)}
    >>> state = tx.init(params)
    >>> for _ in range(6):
    ...     updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> density(find_masks(state))
    {'kernel': 0.25}
    >>> int((params["kernel"] != 0).sum())
    2
    """
    inner = optax.with_extra_args_support(inner)
    for used in (score,) if regrow is None else (score, regrow.grow):
        for need in used.needs:
            if need not in _SEEN:
                raise ValueError(
                    f"score {used.name!r} needs Evidence.{need}, which an optimizer does not see: "
                    "compute masks with choose_masks and train with keep_masks, or choose another"
                )
    if regrow is not None and structure is not unstructured:
        raise ValueError("regrow swaps single weights: use it with the structure `unstructured`")

    def renew(masks: PyTree, params: PyTree, grads: PyTree, step: jax.Array) -> PyTree:
        step_key = None if key is None else jax.random.fold_in(key, step)
        evidence = Evidence(params, grads=grads, key=step_key)
        keep = schedule.keep(step)

        def choose() -> PyTree:
            return choose_masks(
                evidence,
                keep,
                score=score,
                distribution=distribution,
                structure=structure,
                select=select,
            )

        if regrow is None:
            return choose()
        return jax.lax.cond(
            keep == schedule.keep(step - 1),
            lambda: regrow_masks(regrow, masks, evidence, score, select, step),
            choose,
        )

    def init(params: PyTree) -> SparsifyState:
        masks = full_masks(params)
        # Refuses bad rules and missing evidence before the first step.
        jax.eval_shape(renew, masks, params, params, jnp.int32(0))
        return SparsifyState(masks, jnp.zeros([], jnp.int32), inner.init(params))

    def update(
        grads: PyTree, state: SparsifyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SparsifyState]:
        _require(params)
        masks = jax.lax.cond(
            schedule.due(state.step),
            lambda: renew(state.masks, params, grads, state.step),
            lambda: state.masks,
        )
        if dense:
            updates, inner_state = inner.update(grads, state.inner, params, **extra)
        else:
            updates, inner_state = _masked_update(inner, masks, grads, state.inner, params, extra)
        return updates, SparsifyState(masks, optax.safe_increment(state.step), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def keep_masks(
    inner: optax.GradientTransformation, masks: PyTree
) -> optax.GradientTransformationExtraArgs:
    """An optimizer under which weights where `masks` is False are, and stay, exactly 0.

    For fine-tuning: `keep_masks(tx, find_masks(opt_state))`.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SparsifyState:
        # A copy: the state may be donated, the caller's masks may not.
        return SparsifyState(
            jax.tree.map(jnp.copy, masks), jnp.zeros([], jnp.int32), inner.init(params)
        )

    def update(
        grads: PyTree, state: SparsifyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SparsifyState]:
        _require(params)
        updates, inner_state = _masked_update(inner, state.masks, grads, state.inner, params, extra)
        return updates, SparsifyState(state.masks, optax.safe_increment(state.step), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def find_masks(opt_state: optax.OptState) -> PyTree:
    """The masks in an optimizer's state, however deeply `sparsify` or `keep_masks` is nested.

    Raises:
        ValueError: there are none, or more than one set.
    """
    states = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=lambda n: isinstance(n, SparsifyState))
        if isinstance(node, SparsifyState)
    ]
    if len(states) != 1:
        raise ValueError(
            f"{len(states)} SparsifyStates in the optimizer's state, need exactly 1: build the "
            "optimizer with sparsify or keep_masks"
        )
    return states[0].masks


def _require(params: PyTree | None) -> None:
    if params is None:
        raise ValueError("pass params: tx.update(grads, state, params), masks apply to them")


def _masked_update(
    inner: optax.GradientTransformationExtraArgs,
    masks: PyTree,
    grads: PyTree,
    inner_state: optax.OptState,
    params: PyTree,
    extra: dict[str, Any],
) -> tuple[PyTree, optax.OptState]:
    updates, inner_state = inner.update(apply_masks(masks, grads), inner_state, params, **extra)

    def land_on_zero(mask: jax.Array, update: jax.Array, param: jax.Array) -> jax.Array:
        # p + (-p) is exactly 0 if -p is not rounded to a narrower update's dtype on the way.
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.promote_types(update.dtype, param.dtype)
        return jnp.where(mask, update.astype(dtype), -param.astype(dtype))

    return jax.tree.map(land_on_zero, masks, updates, params), inner_state
