"""A Program for any batch, of a function that can be traced for numbers alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from slim.export.program import Program
from slim.export.retraced import retraced

SIZES = (1009, 1013)
"""Primes above what models have as sizes, or their multiples."""


def any_batch(make: Callable[[int], Program], name: str = "batch") -> Program:
    """The Program that gives both of two Programs which differ in their batch alone.

    A number in their shapes or parameters that differs is a n + b of the batch n, by both.

    Args:
        make: a batch -> the Program of it, traced anew.
        name: of the symbol.

    Raises:
        ValueError: they differ in something else: in nodes, or in constants' shapes.

    >>> from slim.export.program import program
    >>> w = np.ones((2, 3), np.float32)
    >>> made = any_batch(lambda n: program(lambda w, x: x @ w, w, w[:, :2], batch=n))
    >>> [str(size) for size in made.types[made.outputs[0][1]].shape]
    ['batch', '3']
    """
    small, large = map(make, SIZES)
    (batch,) = jax.export.symbolic_shape(name)

    def joined(a: Any, b: Any) -> Any:
        """What is `a` at the smaller batch and `b` at the larger."""
        if type(a) is tuple and type(b) is tuple and len(a) == len(b):
            return tuple(map(joined, a, b))
        if type(a) is int and type(b) is int and a != b:
            slope, rest = divmod(b - a, SIZES[1] - SIZES[0])
            if rest:
                raise ValueError(f"{a} and {b} follow from the batch in no simple way")
            return slope * batch + (a - slope * SIZES[0])
        return _inside(joined, a, b) if isinstance(a, ClosedJaxpr) else a

    if [node.op for node in small.nodes] != [node.op for node in large.nodes]:
        raise ValueError("the function is another program at another batch; give batch=1")
    nodes = tuple(
        node._replace(params=_table(joined, node.params, other.params))
        for node, other in zip(small.nodes, large.nodes, strict=True)
    )
    types = {
        value: jax.ShapeDtypeStruct(joined(each.shape, large.types[value].shape), each.dtype)
        for value, each in small.types.items()
    }
    constants = dict(small.constants)
    for value, constant in constants.items():
        other = large.constants[value]
        if constant.shape != other.shape:
            raise ValueError("the function has constants as large as the batch; give batch=1")
        if not (
            value in small.names
            or np.array_equal(constant, other, equal_nan=constant.dtype.kind == "f")
        ):
            raise ValueError("the function computes with the batch's number; give batch=1")
    return replace(small, nodes=nodes, types=types, constants=constants)


def _table(
    joined: Callable[[Any, Any], Any], one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any]:
    return {key: joined(each, other[key]) for key, each in one.items()}


def _inside(joined: Callable[[Any, Any], Any], small: ClosedJaxpr, large: ClosedJaxpr) -> Any:
    """A function inside a parameter."""
    shapes = [joined(a.shape, b.shape) for a, b in zip(small.in_avals, large.in_avals, strict=True)]

    def params(number: int) -> Mapping[str, Any]:
        return _table(joined, *(each.jaxpr.eqns[number].params for each in (small, large)))

    return retraced(small, shapes, params)
