"""Calibration: scales of parameters from the parameters, scales of activations from batches."""

import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph import Contraction, Graph, rewrite, site_parameters
from slim.quant.numerics import WEIGHT_RANGES, choose_scale
from slim.quant.observers import OBSERVERS, check_range
from slim.quant.policy import Assigned, Role, Weights
from slim.quant.simulate import Scale, Scales

PyTree = Any


def calibrate(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]] = (),
) -> Scales:
    """The scales of every site's operands.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        params: the float parameters.
        batches: tuples of inputs, for activations; of one shape, or it compiles once for each.

    Raises:
        ValueError: no batches though activations are quantized; a site that never ran, or saw
            NaN, infinities or nothing but zeros; a parameter that is not finite.
    """
    observe = jax.jit(partial(observations, graph, sites))
    states = no_observations(sites)
    if states:
        batches = iter(batches)
        first = next(batches, None)
        if first is None:
            raise ValueError(
                f"no calibration batches: the activations of {len(states)} sites need at least one"
            )
        for batch in itertools.chain([first], batches):
            states = observe(params, states, *batch)
    found = activation_scales(sites, states)
    return {
        name: weights | found.get(name, {})
        for name, weights in weight_scales(graph, sites, params).items()
    }


def weight_scales(graph: Graph, sites: Mapping[str, Assigned], params: PyTree) -> Scales:
    """The scales of the parameters alone, for every quantized site.

    Raises:
        ValueError: a parameter is not finite.
    """
    operands = site_parameters(graph, params)
    scales: Scales = {}
    for name, assigned in _quantized(sites).items():
        scales[name] = {
            role.name: _weight_scale(assigned, role, role.spec, operands[name])
            for role in assigned.roles
            if isinstance(role.spec, Weights)
        }
    return scales


def _weight_scale(assigned: Assigned, role: Role, spec: Weights, operand: jax.Array) -> Scale:
    shape = assigned.scale_shape(role)

    def scale(w: jax.Array) -> tuple[Any, Any, Scale]:
        low, high = WEIGHT_RANGES[spec.range](w, shape, spec.format, spec.symmetric)
        return low, high, Scale(*choose_scale(low, high, spec.format, spec.symmetric))

    low, high, found = assigned.each_round(scale)(operand)
    if not isinstance(low, jax.core.Tracer):
        check_range(low, high, assigned.site.name)
    return found


def no_observations(sites: Mapping[str, Assigned]) -> dict[str, PyTree]:
    """The observers' states before any batch, by site and role."""
    return {
        name: {
            role.name: jax.tree.map(
                lambda leaf, loops=each.site.loops: jnp.broadcast_to(leaf, (*loops, *leaf.shape)),
                OBSERVERS[role.spec.observer]().init(),
            )
            for role in each.roles
            if not isinstance(role.spec, Weights)
        }
        for name, each in sites.items()
        if each.activations is not None
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
        after = {
            role.name: OBSERVERS[role.spec.observer]().update(
                state[role.name], operands[role.operand]
            )
            for role in assigned.roles
            if not isinstance(role.spec, Weights)
        }
        return contract(*operands), after

    return rewrite(graph, hook)(params, states, *inputs)[1]


def activation_scales(sites: Mapping[str, Assigned], states: Mapping[str, PyTree]) -> Scales:
    """What the observers found.

    Raises:
        ValueError: a site that never ran, or saw NaN, infinities or nothing but zeros.
    """
    scales: Scales = {}
    for name, state in states.items():
        assigned = sites[name]
        scales[name] = {}
        for role in assigned.roles:
            if isinstance(role.spec, Weights):
                continue
            scales[name][role.name] = _activation_scale(assigned, role, state[role.name])
    return scales


def _activation_scale(assigned: Assigned, role: Role, state: PyTree) -> Scale:
    spec, shape = role.spec, assigned.scale_shape(role)
    assert not isinstance(spec, Weights)
    observer = OBSERVERS[spec.observer]()

    def scale(state: PyTree) -> tuple[Any, Any, Scale]:
        low, high = observer.range(state, spec.format, spec.symmetric)
        found = choose_scale(low, high, spec.format, spec.symmetric)
        return low, high, Scale(*jax.tree.map(lambda leaf: leaf.reshape(shape), found))

    low, high, found = assigned.each_round(jax.jit(scale))(state)
    check_range(low, high, assigned.site.name)
    if (np.asarray(low) == np.asarray(high)).any():
        raise ValueError(
            f"site {assigned.site.name!r} ({role.name}) saw nothing but zeros: its scale cannot be "
            "known; leave it float, or calibrate on other data"
        )
    return found


def _quantized(sites: Mapping[str, Assigned]) -> dict[str, Assigned]:
    return {name: each for name, each in sites.items() if each.roles}
