"""Equal nodes computed once: a mask that each layer makes for itself."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from slim.export.program import Node, Program

SMALL = 4096
"""Entries of constants that are compared; larger ones are parameters, which rarely are equal."""


def merge_equal(program: Program) -> Program:
    """Of nodes with the same operation, operands and parameters the first alone."""
    instead: dict[int, int] = {}
    first: dict[Hashable, int] = {}
    for value, data in program.constants.items():
        if data.size <= SMALL and value not in program.names:
            content = (str(data.dtype), data.shape, np.ascontiguousarray(data).tobytes())
            instead[value] = first.setdefault(content, value)
    made: dict[Hashable, Node] = {}
    nodes = []
    for node in program.nodes:
        ins = tuple(instead.get(value, value) for value in node.ins)
        params = _key(node.params)
        key = None if params is None else (node.op, ins, params)
        if key is not None and key in made:
            instead |= zip(node.outs, made[key].outs, strict=True)
            continue
        nodes.append(node._replace(ins=ins))
        if key is not None:
            made[key] = node
    outputs = tuple((name, instead.get(value, value)) for name, value in program.outputs)
    return replace(program, nodes=tuple(nodes), outputs=outputs)


def _key(params: Mapping[str, Any]) -> Hashable | None:
    """The parameters as they are compared; None where they cannot be, as grids of arrays."""
    key = tuple(sorted(params.items(), key=lambda item: item[0]))
    try:
        hash(key)
    except TypeError:
        return None
    return key
