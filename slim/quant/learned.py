"""Scales that are trained: vectors beside the parameters, all else that a site has apart from them.

A vector has one dimension, so that what decays kernels (parameters of two or more) leaves it alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from slim import paths
from slim.quant.policy import Assigned
from slim.quant.simulate import Scale, Scales

PyTree = Any

LEAST = 1e-30
"""A scale that a large step of training made negative or zero is this."""


def separate(scales: Scales) -> tuple[PyTree, PyTree]:
    """(vectors, rest): nested dicts by site and role, to train and not to; pure."""
    vectors: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, entries in scales.items():
        for key, entry in entries.items():
            if isinstance(entry, Scale):
                vectors[f"{name}/{key}"] = entry.scale.ravel()
                if entry.zero_point is not None:
                    rest[f"{name}/{key}/zero_point"] = entry.zero_point
            else:
                rest[f"{name}/{key}"] = entry
    return paths.unflatten(vectors), paths.unflatten(rest)


def join(assigned: Mapping[str, Assigned], vectors: PyTree, rest: PyTree) -> Scales:
    """The scales that `separate` took apart, of the same sites; pure."""
    scales: Scales = {}
    for name, each in assigned.items():
        if not each.roles:
            continue
        others = dict(_at(rest, name))
        made: dict[str, Any] = {}
        for role in each.roles:
            shape = (*each.site.loops, *each.scale_shape(role))
            vector = jnp.maximum(_at(vectors, name)[role.name], jnp.float32(LEAST))
            zero_point = others.pop(role.name, {}).get("zero_point")
            made[role.name] = Scale(vector.reshape(shape), zero_point)
        scales[name] = {**made, **others}
    return scales


def _at(tree: PyTree, name: str) -> Mapping[str, Any]:
    for key in name.split("/"):
        tree = tree.get(key, {})
    found: Mapping[str, jax.Array] = tree
    return found
