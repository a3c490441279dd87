"""Program to a Core ML package (.mlpackage, an ML Program), for Apple's devices, iOS 18 and on.

    files = coreml.write(program)                            # float16, as the Neural Engine has it
    files = coreml.write_float32(program)
    for name, data in files.items():                         # "Manifest.json", "Data/..."
        (package / name).write_bytes(data)                   # in folders made first

The Program's StableHLO goes through `stablehlo-coreml`, whose program `coremltools` optimizes and
writes. A fake_quant of a weight becomes integers with their scales, one of an activation a pair of
`quantize` and `dequantize`, which Core ML's compiler joins with what stands between them.

What runs these files is part of macOS and iOS. Here the package is written and its specification
read back and held against the Program; no number in it has been computed by Core ML, so its outputs
are to be compared on a Mac before it is relied on.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from slim.export.program import Node, Program, Unsupported
from slim.quant.numerics import find_format, quantize

MARK = "slim.fake_quant"
"""The name of the composite that a fake_quant is on its way through StableHLO."""


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of an .mlpackage by their path inside it.

    What is not quantized, and scales, are of float16, which the Neural Engine computes in. Inputs
    and outputs have the Program's names, of which Core ML wants letters, digits and "_".

    Args:
        program: after `passes.standard`, traced at a batch of a number.
        metadata: texts by name, written into the specification as user-defined metadata.

    Raises:
        Unsupported: a node that Core ML has nothing for, with its line of user code.
        ModuleNotFoundError: `coremltools` or `stablehlo-coreml` is not installed.
        ValueError: a dimension of an input is a symbol; a parameter is not finite.
    """
    return _package(program, "FLOAT16", metadata or {})


def write_float32(
    program: Program, *, metadata: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """As `write`, but in float32, for the CPU and GPU."""
    return _package(program, "FLOAT32", metadata or {})


def _package(program: Program, precision: str, metadata: Mapping[str, str]) -> dict[str, bytes]:
    _check(program)
    ct = _coremltools()
    try:
        model = _converted(program, getattr(ct.precision, precision))
    except (NotImplementedError, ValueError, TypeError, KeyError, IndexError) as error:
        raise _unsupported(program, error) from error
    specification = model.get_spec()
    names = [name for name, _ in program.inputs], [name for name, _ in program.outputs]
    described = specification.description
    for features, wanted in zip((described.input, described.output), names, strict=True):
        for given, name in zip([each.name for each in features], wanted, strict=True):
            ct.utils.rename_feature(specification, given, name)
    model = ct.models.MLModel(specification, weights_dir=model.weights_dir, skip_model_load=True)
    model.user_defined_metadata.update(metadata)
    with TemporaryDirectory() as folder:
        package = Path(folder, "model.mlpackage")
        model.save(str(package))
        found = sorted(path for path in package.rglob("*") if path.is_file())
        return {path.relative_to(package).as_posix(): path.read_bytes() for path in found}


def _coremltools() -> Any:
    try:
        import coremltools
        import stablehlo_coreml  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "target 'coreml' needs coremltools and stablehlo-coreml: pip install -e '.[coreml]'"
        ) from error
    return coremltools


def _check(program: Program) -> None:
    for name, value in program.inputs:
        shape = program.types[value].shape
        if not all(isinstance(n, int) for n in shape):
            raise ValueError(
                f"input {name!r} has shape {shape}; target 'coreml' wants every size known: "
                "trace with batch=1, or another number"
            )
    for value, data in program.constants.items():
        path, data = program.names.get(value), np.asarray(data)
        if path is not None and data.dtype.kind == "f" and not np.isfinite(data).all():
            raise ValueError(f"{path} has numbers that are not finite; train it again, or mend it")


def _converted(program: Program, precision: Any) -> Any:
    ct = _coremltools()
    from stablehlo_coreml import build_pass_pipeline

    pipeline = build_pass_pipeline()
    if any(node.op == "fake_quant" for node in program.nodes):
        # It takes for granted that a convolution's weight is a constant of floats.
        pipeline.remove_passes({"common::fuse_conv_bias"})
    with warnings.catch_warnings():
        # It leaves a folder of its own to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        return ct.convert(
            mil(program),
            source="milinternal",
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=precision,
            pass_pipeline=pipeline,
            skip_model_load=True,
        )


def mil(program: Program) -> Any:
    """The Program in Core ML's own terms, MIL, before any optimization."""
    from stablehlo_coreml.converter import _normalize_module

    marks: list[Node] = []
    specs = [program.types[value] for _, value in program.inputs]
    lowered = jax.jit(_marked(program, marks), keep_unused=True).lower(*specs)
    module = lowered.compiler_ir("stablehlo")
    _normalize_module(module)
    _drop_ones(module)
    made = _converter()(marks).convert(module)
    for function in made.functions.values():
        _move_weights(function)
    return made


def _drop_ones(module: Any) -> None:
    """Takes dilations of one off pools, which stablehlo-coreml 0.1.6 takes for others."""

    def drop(op: Any) -> Any:
        if op.name == "stablehlo.reduce_window":
            for name in ("window_dilations", "base_dilations"):
                if name in op.attributes and all(n == 1 for n in op.attributes[name]):
                    del op.attributes[name]
        return advance

    advance = mlir.ir.WalkResult.ADVANCE
    module.operation.walk(drop)


def _marked(program: Program, marks: list[Node]) -> Callable[..., tuple[jax.Array, ...]]:
    """The Program's function, each fake_quant a composite with its number in `marks`."""

    def run(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        values: dict[int, Any] = dict(program.constants)
        values |= {value: x for (_, value), x in zip(program.inputs, inputs, strict=True)}
        for node in program.nodes:
            operands = [jnp.asarray(values[value]) for value in node.ins]
            made: Sequence[jax.Array]
            if node.op == "fake_quant":
                made = [_mark(operands[0], len(marks))]
                marks.append(node)
            else:
                made = _alone(program, node)(*operands)
            values |= zip(node.outs, made, strict=True)
        return tuple(jnp.asarray(values[value]) for _, value in program.outputs)

    return run


def _mark(x: jax.Array, number: int) -> jax.Array:
    """A composite that the converter has a rule for, so that what it is made of does not matter."""
    return jax.lax.composite(lambda x, *, number: x, MARK)(x, number=number)


def _arrays(node: Node) -> tuple[jax.Array, jax.Array | None]:
    """Scale and zero point of a fake_quant."""
    zero = node.params["zero_point"]
    return jnp.asarray(node.params["scale"]), None if zero is None else jnp.asarray(zero)


def _alone(program: Program, node: Node) -> Program:
    """A Program of one node, which reads what the node reads."""
    ins = tuple((f"x{place}", value) for place, value in enumerate(node.ins))
    outs = tuple((f"y{place}", value) for place, value in enumerate(node.outs))
    return replace(program, nodes=(node,), constants={}, names={}, inputs=ins, outputs=outs)


def _unsupported(program: Program, error: Exception) -> Exception:
    """The first node that cannot be converted by itself; else the error as it is."""
    for node in program.nodes:
        known = {value: x for value, x in program.constants.items() if value in node.ins}
        alone = replace(_alone(program, node), constants=known)
        free = tuple(each for each in alone.inputs if each[1] not in known)
        try:
            mil(replace(alone, inputs=free))
        except (NotImplementedError, ValueError, TypeError, KeyError, IndexError):
            return Unsupported(node.op, node.line, "coreml")
    return error


@cache
def _converter() -> type:
    """`stablehlo-coreml`'s converter, with a rule for the mark.

    Its own rules are in tables that a metaclass makes of a class's own methods, so a subclass is
    given its parent's.
    """
    from coremltools import target
    from coremltools.converters.mil.mil import Builder
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects.stablehlo import CompositeOp
    from stablehlo_coreml.converter import StableHloConverter
    from stablehlo_coreml.ops_register import register_composite_op
    from stablehlo_coreml.translation_context import TranslationContext

    class Converter(StableHloConverter):
        def __init__(self, marks: list[Node]) -> None:
            super().__init__(opset_version=target.iOS18)
            self.marks = marks

        @register_composite_op(MARK)
        def fake_quant(self, context: TranslationContext, op: CompositeOp) -> None:
            x = context[op.inputs[0].get_name()]
            assert op.composite_attributes is not None
            node = self.marks[ir.IntegerAttr(op.composite_attributes["number"]).value]
            how = _weight if x.val is not None else _activation
            context.add_result(op.results[0], how(Builder, x, node))

    for rules in ("_stablehlo_ops_registry", "_composite_ops_registry"):
        own = getattr(StableHloConverter, rules) | getattr(Converter, rules)
        setattr(Converter, rules, own)
    return Converter


def _weight(builder: Any, x: Any, node: Node) -> Any:
    """Integers, scales and offsets that stand for a constant."""
    from coremltools.converters.mil.mil.types.type_mapping import string_to_nptype

    fmt = find_format(node.params["format"])
    if not fmt.is_integer:
        raise NotImplementedError(f"weights of {fmt.name}")
    dtype = string_to_nptype(f"{'' if fmt.is_signed else 'u'}int{4 if fmt.bits <= 4 else 8}")
    scale, zero = _arrays(node)
    values = np.asarray(quantize(jnp.asarray(x.val), scale, zero, fmt.name).values)
    given = {} if zero is None else {"offset": np.asarray(zero).astype(dtype)}
    return builder.constexpr_blockwise_shift_scale(
        data=values.astype(dtype), scale=np.asarray(scale), **given
    )


def _move_weights(block: Any) -> None:
    """Integers already in the order that their readers want: no pass of coremltools moves them."""
    from coremltools.converters.mil.mil import Builder

    for op in list(block.operations):
        weight = op.inputs["x"].op if op.op_type in ("transpose", "reshape") else None
        if weight is None or weight.op_type != "constexpr_blockwise_shift_scale":
            continue
        given = {name: var.val for name, var in weight.inputs.items() if var is not None}
        if op.op_type == "transpose":
            moved = {name: each.transpose(op.perm.val) for name, each in given.items()}
        else:
            sizes = op.x.shape, op.outputs[0].shape
            moved = {name: _reshaped(each, *sizes) for name, each in given.items()}
            moved["data"] = given["data"].reshape(sizes[1])
            if moved["scale"].size != given["scale"].size:  # blocks that the new shape cuts through
                continue
        with block:
            new = Builder.constexpr_blockwise_shift_scale(**moved, before_op=op)
            block.replace_uses_of_var_after_op(
                anchor_op=op, old_var=op.outputs[0], new_var=new, force_replace=True
            )
            block.remove_ops([op])


def _reshaped(each: np.ndarray, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """One entry for each block of a tensor, once the tensor is reshaped."""
    for d, size in enumerate(before):
        each = each.repeat(size // each.shape[d], d)
    each = each.reshape(after)
    for d in range(each.ndim):
        first = each.take([0], d)
        each = first if (each == first).all() else each
    return each


def _activation(builder: Any, x: Any, node: Node) -> Any:
    fmt = find_format(node.params["format"])
    scale, zero = _arrays(node)
    if fmt.name not in ("int8", "uint8") or scale.size != 1:
        raise NotImplementedError(f"activations of {fmt.name} with {scale.size} scales")
    grid = {
        "scale": np.float32(scale.item()),
        "zero_point": np.dtype(fmt.dtype).type(0 if zero is None else zero.item()),
    }
    stored = builder.quantize(input=x, output_dtype=fmt.name, **grid)
    return builder.dequantize(input=stored, **grid)
