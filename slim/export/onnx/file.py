"""A network as an ONNX model, checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slim.export.onnx.network import Network, Value

IR_VERSION = 10
PLAIN, BLOCKS = 20, 21
"""Opsets: from 21 ONNX Runtime refuses signed activations, before it there are no blocks."""


def library() -> Any:
    """The `onnx` package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX files need onnx: pip install -e '.[onnx]'") from error
    return onnx


def to_model(network: Network, metadata: Mapping[str, str]) -> Any:
    """The ModelProto, after `onnx.checker`."""
    onnx = library()
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    names: dict[Value, str] = {}
    # An output keeps the name that the program gives it.
    used = {each.name for each in (*network.inputs, *network.outputs)}
    names |= {each: each.name for each in (*network.inputs, *network.outputs)}

    def named(value: Value) -> str:
        if value not in names:
            wanted = value.name or ("constant" if value.data is not None else "step")
            count, found = 0, wanted if value.name else f"{wanted}_{len(names)}"
            while found in used:
                count += 1
                found = f"{wanted}_{count}"
            used.add(found)
            names[value] = found
        return names[value]

    def kind(dtype: Any) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def described(value: Value) -> Any:
        shape = ["batch" if n is None else n for n in value.shape]
        return helper.make_tensor_value_info(named(value), kind(value.dtype), shape)

    nodes, constants = [], {}
    for place, op in enumerate(network.ops):
        for value in op.ins:
            if value.data is not None and value not in constants:
                constants[value] = numpy_helper.from_array(np.asarray(value.data), named(value))
        attributes = {
            key: kind(each) if isinstance(each, np.dtype) else each
            for key, each in op.attributes.items()
        }
        ins, outs = [named(each) for each in op.ins], [named(each) for each in op.outs]
        node = helper.make_node(op.code, ins, outs, f"{op.code}_{place}", **attributes)
        node.doc_string = op.line
        nodes.append(node)
    graph = helper.make_graph(
        nodes,
        "slim",
        [described(each) for each in network.inputs],
        [described(each) for each in network.outputs],
        list(constants.values()),
    )
    blocks = any("block_size" in op.attributes for op in network.ops)
    blocks |= any(value.dtype.name == "int4" for value in constants)
    opset = helper.make_opsetid("", BLOCKS if blocks else PLAIN)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="slim"
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model
