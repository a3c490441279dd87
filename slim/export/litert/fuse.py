"""Operators joined as TFLite has them: biases and activations inside, means, moves of moves."""

import math
from collections.abc import Callable

import numpy as np

from slim.export.litert.network import Grid, Network, Op, Tensor, constant

CONTRACTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
ACTIVATED = CONTRACTIONS | {"ADD", "SUB", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
REDUCERS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"})
MOVES = frozenset({"RESHAPE", "TRANSPOSE"})


def fuse(network: Network) -> Network:
    """The same function in fewer operators; every contraction gets a bias, if only of zeros."""
    while (fused := _once(network)) is not None:
        network = fused
    for op in network.ops:
        if op.code in CONTRACTIONS and len(op.ins) == 2:
            op.ins.append(constant(np.zeros(op.outs[0].shape[-1] or 1, np.float32), "no_bias"))
    return network.without_dead()


def _once(network: Network) -> Network | None:
    """After a sweep in which something was joined; None if nothing was."""
    view = _View(network)
    new: dict[Tensor, Tensor] = {}
    for op in network.ops:
        for rule in RULES.get(op.code, ()):
            if not view.touched.isdisjoint(op.ins):
                break
            if (instead := rule(op, view)) is not None:
                new[op.outs[0]] = instead
                view.touched |= {op.outs[0], instead, *op.ins}
                break
    if not view.changed and not new:
        return None
    return network.replace(new, network.ops).without_dead()


class _View:
    """Who makes and reads what; what this sweep has changed is left to the next."""

    def __init__(self, network: Network) -> None:
        self.makers, self.readers = network.makers(), network.readers()
        self.outputs = set(network.outputs.values())
        self.touched: set[Tensor] = set()
        self.changed = False

    def only_reader(self, tensor: Tensor) -> bool:
        return len(self.readers.get(tensor, [])) == 1 and tensor not in self.outputs


Rule = Callable[[Op, _View], Tensor | None]
"""What stands for the operator's result from now on; None where the rule does not apply."""


def _operands(op: Op) -> tuple[Tensor, np.ndarray] | None:
    """The variable and the constant operand of an operator of two."""
    first, second = op.ins
    if second.data is not None and first.data is None and second.grid is None:
        return first, second.data
    if first.data is not None and second.data is None and op.code in ("ADD", "MUL"):
        return None if first.grid is not None else (second, first.data)
    return None


def _after_contraction(op: Op, view: _View) -> tuple[Op, Tensor, np.ndarray] | None:
    """Of a contraction's result, perhaps reshaped, and constants: it, the result, one an output."""
    if (pair := _operands(op)) is None:
        return None
    x, numbers = pair
    maker = view.makers.get(x)
    result = x
    if maker is not None and maker.code == "RESHAPE" and maker.ins[0] in view.makers:
        result = maker.ins[0]
        if not view.only_reader(x):
            return None
        maker = view.makers[result]
    if (
        maker is None
        or maker.code not in CONTRACTIONS
        or "fusedActivationFunction" in maker.options
        or not view.only_reader(result)
        or op.outs[0].shape != x.shape
    ):
        return None
    features = result.shape[-1] or 1
    sizes = [n or 0 for n in x.shape]
    split = next((d for d in range(len(sizes)) if math.prod(sizes[d:]) == features), None)
    if split is None or len(numbers.shape) > len(sizes):
        return None
    last = len(sizes) - split
    if math.prod(numbers.shape[:-last]) != 1:
        return None
    flat = np.broadcast_to(numbers.reshape(numbers.shape[-last:]), sizes[split:])
    return maker, x, flat.reshape(-1)


def _bias(op: Op, view: _View) -> Tensor | None:
    """A sum x + b after a contraction."""
    if (found := _after_contraction(op, view)) is None:
        return None
    maker, x, added = found
    bias = -added if op.code == "SUB" else added
    if len(maker.ins) > 2:
        (before,) = maker.ins[2:]
        assert before.data is not None
        bias = before.data + bias
    maker.ins[2:] = [constant(bias, f"{op.outs[0].name}_bias")]
    return _renamed(maker, x, op, view)


def _scale(op: Op, view: _View) -> Tensor | None:
    """A factor for each output of a contraction, as batch norms have: into kernel and bias."""
    if (found := _after_contraction(op, view)) is None:
        return None
    maker, x, numbers = found
    factors = np.float32(1) / numbers if op.code == "DIV" else numbers
    axis = 3 if maker.code == "DEPTHWISE_CONV_2D" else 0
    if (kernel := _scaled(maker.ins[1], factors, axis)) is None:
        return None
    biases = []
    for bias in maker.ins[2:]:
        assert bias.data is not None
        biases.append(constant(bias.data * factors, bias.name))
    maker.ins[1:] = [kernel, *biases]
    return _renamed(maker, x, op, view)


def _scaled(kernel: Tensor, factors: np.ndarray, axis: int) -> Tensor | None:
    """The kernel times a factor an output; one of integers keeps them, but for their signs."""
    if kernel.data is None:
        return None
    sizes = [-1 if d == axis else 1 for d in range(kernel.data.ndim)]
    if kernel.grid is None:
        return constant(kernel.data * factors.reshape(sizes), kernel.name)
    scale, zero, along = kernel.grid
    integers = kernel.data.astype(np.int8)
    lowest = -8 if kernel.data.dtype.name == "int4" else -128
    if zero.any() or not factors.all() or (scale.size > 1 and along != axis):
        return None
    if (factors < 0).any() and (integers == lowest).any():
        return None
    signs = np.sign(factors).astype(np.int8).reshape(sizes)
    grid = Grid(scale * np.abs(factors), np.zeros(factors.size, np.int64), axis)
    return constant((integers * signs).astype(kernel.data.dtype), kernel.name, grid)


def _renamed(maker: Op, x: Tensor, op: Op, view: _View) -> Tensor:
    """The contraction's result, which is the operator's from now on, its activation with it."""
    if "fusedActivationFunction" in op.options:
        maker.options["fusedActivationFunction"] = op.options["fusedActivationFunction"]
    if maker.outs[0] is x:
        x.name = op.outs[0].name
    view.changed = True
    return x


def _activation(op: Op, view: _View) -> Tensor | None:
    x = op.ins[0]
    maker = view.makers.get(x)
    if (
        maker is None
        or maker.code not in ACTIVATED
        or "fusedActivationFunction" in maker.options
        or not view.only_reader(x)
        or x.dtype != np.float32
    ):
        return None
    maker.options["fusedActivationFunction"] = op.code
    x.name = op.outs[0].name
    return x


def _rectifier(op: Op, view: _View) -> Tensor | None:
    """max(x, 0)."""
    pair = next(
        ((x, y.data) for x, y in (op.ins, op.ins[::-1]) if x.data is None and y.data is not None),
        None,
    )
    if pair is None or pair[1].size != 1 or pair[0].shape != op.outs[0].shape:
        return None
    x, bound = pair[0], float(pair[1].item())
    if bound == 0.0 and x.dtype == np.float32:
        op.code, op.ins, view.changed = "RELU", [x], True
    return None


def _undone(op: Op, view: _View) -> Tensor | None:
    """A factor that undoes the one before."""
    if (pair := _operands(op)) is None or pair[1].size != 1 or pair[1].dtype.kind != "f":
        return None
    x, maker = pair[0], view.makers.get(pair[0])
    factor = float(pair[1].item()) if op.code == "MUL" else 1.0 / float(pair[1].item())
    if maker is None or not view.only_reader(x) or op.outs[0].shape != x.shape:
        return None
    before = _operands(maker) if maker.code == "MUL" else None
    if before is None or before[1].size != 1 or before[0].shape != x.shape:
        return None
    return before[0] if _is_one(factor * float(before[1].item())) else None


def _is_one(factor: float) -> bool:
    return abs(factor - 1.0) < 1e-6


def _move(op: Op, view: _View) -> Tensor | None:
    """A move of a move."""
    x = op.ins[0]
    maker = view.makers.get(x)
    if x.shape == op.outs[0].shape and op.code == "RESHAPE":
        return None if x.data is not None or op.outs[0] in view.outputs else x
    if maker is not None and maker.code in REDUCERS and op.code == "RESHAPE":
        return _kept(op, maker, view)
    if maker is None or maker.code != op.code:
        return None
    if op.code == "TRANSPOSE":
        first, second = maker.ins[1], op.ins[1]
        assert first.data is not None
        assert second.data is not None
        order = first.data[second.data]
        if (order == np.arange(order.size)).all() and op.outs[0] not in view.outputs:
            return maker.ins[0]
        op.ins[1] = constant(order)
    op.ins[0], view.changed = maker.ins[0], True
    return None


def _kept(op: Op, maker: Op, view: _View) -> Tensor | None:
    """A reduction whose dimensions come back with size one."""
    (source, axes), (x,), (out,) = maker.ins, maker.outs, op.outs
    assert axes.data is not None
    rank = len(source.shape)
    reduced = {int(d) % rank for d in axes.data.reshape(-1)}
    whole = tuple(1 if d in reduced else n for d, n in enumerate(source.shape))
    if out.shape != whole or len(x.shape) == rank or not view.only_reader(x):
        return None
    maker.options["keepDims"], x.shape, x.name = True, whole, out.name
    return x


def _zero_padding(op: Op, view: _View) -> Tensor | None:
    """The least number around what is never negative, before a maximum: zeros serve as well."""
    x, ends, fill = op.ins
    while x in view.makers and view.makers[x].code == "FAKE_QUANT":
        x = view.makers[x].ins[0]
    maker = view.makers.get(x)
    if maker is None or fill.data is None or fill.data != np.finfo(np.float32).min:
        return None
    if any(reader.code != "MAX_POOL_2D" for reader in view.readers[op.outs[0]]):
        return None
    rectified = ("RELU", "RELU6")
    if maker.code in rectified or maker.options.get("fusedActivationFunction") in rectified:
        op.code, op.ins, view.changed = "PAD", [op.ins[0], ends], True
    return None


RULES: dict[str, tuple[Rule, ...]] = {
    "ADD": (_bias,),
    "SUB": (_bias,),
    "RELU": (_activation,),
    "RELU6": (_activation,),
    "MAXIMUM": (_rectifier,),
    "MUL": (_scale, _undone),
    "PADV2": (_zero_padding,),
    "DIV": (_scale, _undone),
    "RESHAPE": (_move,),
    "TRANSPOSE": (_move,),
}
