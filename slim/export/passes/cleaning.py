"""Passes that take away: what follows of constants alone, what does nothing, what nothing reads."""

from dataclasses import replace
from typing import Any

import numpy as np

from slim.export.program import Node, Program, is_symbol, needed, run

SAME = frozenset({"copy", "copy_p", "name", "optimization_barrier", "stop_gradient"})


def fold_constants(program: Program) -> Program:
    """What is computed of constants alone, computed; but for a fake_quant, and sizes unknown.

    A constant is broadcast only where its size stays as it is.
    """
    constants, nodes = dict(program.constants), []
    for node in program.nodes:
        types = [program.types[value] for value in node.outs]
        known = all(value in constants for value in node.ins)
        sized = not any(is_symbol(n) for each in types for n in each.shape)
        if not known or not sized or node.op == "fake_quant":
            nodes.append(node)
            continue
        made = run(node, [constants[value] for value in node.ins], {})
        constants |= {v: np.asarray(x) for v, x in zip(node.outs, made, strict=True)}
    return replace(program, nodes=tuple(nodes), constants=constants)


def simplify(program: Program) -> Program:
    """Without nodes whose result is their operand, as a reshape to the same shape."""
    instead: dict[int, int] = {}
    nodes = []
    for node in program.nodes:
        ins = tuple(instead.get(value, value) for value in node.ins)
        if len(ins) == len(node.outs) and all(_same(program, node, i) for i in range(len(ins))):
            instead |= zip(node.outs, ins, strict=True)
        else:
            nodes.append(node._replace(ins=ins))
    outputs = tuple((name, instead.get(value, value)) for name, value in program.outputs)
    return replace(program, nodes=tuple(nodes), outputs=outputs)


def without_dead(program: Program) -> Program:
    """Without what no output needs."""
    nodes = needed(program.nodes, [value for _, value in program.outputs])
    read = {value for node in nodes for value in (*node.ins, *node.outs)}
    read |= {value for _, value in (*program.inputs, *program.outputs)}

    def kept(table: Any) -> dict[int, Any]:
        return {value: each for value, each in table.items() if value in read}

    constants = kept(program.constants)
    names = {value: name for value, name in program.names.items() if value in constants}
    return replace(
        program, nodes=nodes, types=kept(program.types), constants=constants, names=names
    )


def _same(program: Program, node: Node, place: int) -> bool:
    before, after = program.types[node.ins[place]], program.types[node.outs[place]]
    if node.op in SAME:
        return True
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if node.op == "transpose":
        return tuple(node.params["permutation"]) == tuple(range(len(before.shape)))
    if node.op == "reshape":
        return node.params.get("dimensions") is None
    return node.op in ("broadcast_in_dim", "convert_element_type", "squeeze")
