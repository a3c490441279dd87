"""Calibration: scales of parameters from the parameters, scales of activations from batches."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph import Contraction, Graph, rewrite, site_parameters
from slim.quant.numerics import WEIGHT_RANGES, choose_scale
from slim.quant.observers import OBSERVERS, check_range
from slim.quant.passes import over_batches
from slim.quant.policy import Activations, Assigned, Role, Weights
from slim.quant.simulate import Scale, Scales
from slim.quant.state import Smoothing, check_smoothing, smooth_weights, smoothed

PyTree = Any


def calibrate(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]] = (),
    *,
    smoothing: Smoothing | None = None,
) -> Scales:
    """The scales of every site's operands.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        params: the float parameters.
        batches: tuples of inputs, for activations; of one shape, or it compiles once for each.
        smoothing: factors by site, of `smoothquant` or `awq`. Scales are then of the data divided
            by them and the parameter times them, and they are part of the sites' states.

    Raises:
        ValueError: no batches though activations are quantized; a site that never ran, or saw
            NaN, infinities or nothing but zeros; a parameter that is not finite; factors that do
            not fit a site or are not positive.
    """
    scales = weight_scales(graph, sites, params, smoothing=smoothing)
    states = no_observations(sites, smoothing)
    if states:
        observe, what = partial(observations, graph, sites), f"the activations of {len(states)}"
        states, _ = over_batches(observe, params, states, batches, what=f"{what} sites need")
    found = activation_scales(sites, states)
    return {name: state | found.get(name, {}) for name, state in scales.items()}


def weight_scales(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    *,
    smoothing: Smoothing | None = None,
) -> Scales:
    """The scales of the parameters alone, for every quantized site, with its smoothing if any.

    Raises:
        ValueError: a parameter is not finite; factors that do not fit a site or are not positive.
    """
    check_smoothing(sites, smoothing or {})
    operands = site_parameters(graph, params)
    scales: Scales = {}
    for name, assigned in _quantized(sites).items():
        scales[name] = state = _smoothing_of(name, smoothing)
        for role in assigned.roles:
            if isinstance(role.spec, Weights):
                state[role.name] = _weight_scale(assigned, role, role.spec, operands[name], state)
    return scales


def _smoothing_of(name: str, smoothing: Smoothing | None) -> dict[str, Any]:
    return {"smoothing": smoothing[name]} if smoothing and name in smoothing else {}


def _weight_scale(
    assigned: Assigned, role: Role, spec: Weights, operand: jax.Array, state: Mapping[str, Any]
) -> Scale:
    shape = assigned.scale_shape(role)
    method = WEIGHT_RANGES["minmax" if role.is_cast else spec.range]

    def range_(w: jax.Array, factors: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        w = smooth_weights(assigned, w, factors)
        return method(w, shape, spec.format, spec.symmetric)

    low, high = assigned.each_round(range_)(operand, state.get("smoothing"))
    if not isinstance(low, jax.core.Tracer):
        remedy = "its parameter must be finite; go back to a checkpoint where it is"
        check_range(low, high, assigned.site.name, remedy=remedy)
    return Scale(*choose_scale(low, high, spec.format, spec.symmetric))


def no_observations(
    sites: Mapping[str, Assigned], smoothing: Smoothing | None = None
) -> dict[str, PyTree]:
    """The observers' states before any batch, by site and role, with the sites' smoothing."""
    return {
        name: _smoothing_of(name, smoothing)
        | {
            role.name: jax.tree.map(
                lambda leaf, loops=each.site.loops: jnp.broadcast_to(leaf, (*loops, *leaf.shape)),
                observer.init(),
            )
            for role in each.roles
            if (observer := role.observer)
        }
        for name, each in sites.items()
        if any(role.observer for role in each.roles)
    }


def observations(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    states: dict[str, PyTree],
    *inputs: Any,
) -> dict[str, PyTree]:
    """The observers' states after one more batch; pure."""

    def hook(contract: Contraction, operands: Any, state: PyTree) -> tuple[Any, PyTree]:
        assigned = sites[contract.site.name]
        seen = smoothed(assigned, operands, state)
        after = {
            role.name: observer.update(state[role.name], seen[role.operand])
            for role in assigned.roles
            if (observer := role.observer)
        }
        return contract(*operands), state | after

    return rewrite(graph, hook)(params, states, *inputs)[1]


def activation_scales(sites: Mapping[str, Assigned], states: Mapping[str, PyTree]) -> Scales:
    """What the observers found; of what is cast, ones.

    Raises:
        ValueError: a site that never ran, or saw NaN, infinities or nothing but zeros.
    """
    scales: Scales = {}
    for name, assigned in sites.items():
        scales[name] = {
            role.name: _activation_scale(assigned, role, states[name][role.name])
            if role.observer
            else Scale(jnp.ones((*assigned.site.loops, *assigned.scale_shape(role))), None)
            for role in assigned.roles
            if isinstance(role.spec, Activations)
        }
    return scales


def _activation_scale(assigned: Assigned, role: Role, state: PyTree) -> Scale:
    spec, loops = role.spec, assigned.site.loops
    assert isinstance(spec, Activations)
    low, high, found = _scale_of(state, spec, len(loops))
    check_range(low, high, assigned.site.name)
    if (np.asarray(low) == np.asarray(high)).any():
        raise ValueError(
            f"site {assigned.site.name!r} ({role.name}) saw nothing but zeros: its scale cannot be "
            "known; leave it float, or calibrate on other data"
        )
    shape = (*loops, *assigned.scale_shape(role))
    return Scale(*jax.tree.map(lambda leaf: leaf.reshape(shape), found))


# One program for all sites that are calibrated alike.
@partial(jax.jit, static_argnums=(1, 2))
def _scale_of(state: PyTree, spec: Activations, loops: int) -> tuple[Any, Any, Any]:
    def one(state: PyTree) -> tuple[Any, Any, Any]:
        low, high = OBSERVERS[spec.observer]().range(state, spec.format, spec.symmetric)
        return low, high, choose_scale(low, high, spec.format, spec.symmetric)

    fn: Callable[..., Any] = one
    for _ in range(loops):
        fn = jax.vmap(fn)
    found: tuple[Any, Any, Any] = fn(state)
    return found


def _quantized(sites: Mapping[str, Assigned]) -> dict[str, Assigned]:
    return {name: each for name, each in sites.items() if each.roles}
