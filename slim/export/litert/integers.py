"""From marks (FAKE_QUANT) to operators on 8-bit integers.

An operator runs on integers when what it reads has a grid and so has its result; around the others
stand DEQUANTIZE and QUANTIZE. No number is quantized that the program does not mark, with the one
exception of TFLite's own rule: the bias of a contraction is int32 with the scale of the products.
"""

from collections.abc import Mapping

import numpy as np

from slim.export.litert.fuse import CONTRACTIONS, MOVES
from slim.export.litert.network import Grid, Network, Op, Tensor, constant

INT8, FLOAT = np.dtype(np.int8), np.dtype(np.float32)

RESCALING = frozenset({"ADD", "SUB", "MUL", "MEAN", "RELU", "RELU6", "HARD_SWISH", "GELU"})
"""They take grids as they come and give the one they are told."""

KEEPING = frozenset(
    {
        *MOVES,
        "CONCATENATION",
        "GATHER",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "PAD",
        "REVERSE_V2",
        "SLICE",
        "SPACE_TO_DEPTH",
        "STRIDED_SLICE",
    }
)
"""Their result has the grid of what they read, which must be one."""

FIXED = {
    "LOGISTIC": Grid(np.array([1 / 256], np.float32), np.array([-128])),
    "SOFTMAX": Grid(np.array([1 / 256], np.float32), np.array([-128])),
    "TANH": Grid(np.array([1 / 128], np.float32), np.array([0])),
}
"""The only grid that TFLite's kernel of each gives."""

SEVERAL = frozenset({"ADD", "SUB", "MUL", "CONCATENATION", "MAXIMUM", "MINIMUM"})
"""All their operands are data; of the others only the first."""


def integers(network: Network, *, hybrid: bool = False) -> Network:
    """The network with integers where the marks allow; marks are gone.

    Args:
        network: with FAKE_QUANT marks.
        hybrid: whether convolutions of float activations by integer weights quantize the
            activations as they run, rather than have the weights as floats. Products of 8-bit
            activations with matrices do in any case: each row by its own range, no worse than the
            one that was marked.
    """
    return _Integers(_hoisted(network), hybrid).network()


def _hoisted(network: Network) -> Network:
    """Marks before the moves that they stand after, next to what computes."""
    while True:
        makers, readers = network.makers(), network.readers()
        outputs = set(network.outputs.values())
        for place, op in enumerate(network.ops):
            move = makers.get(op.ins[0]) if op.code == "FAKE_QUANT" else None
            if move is not None and move.code in MOVES and len(readers[move.outs[0]]) == 1:
                if move.outs[0] in outputs:
                    continue
                (source, *rest), (marked,) = move.ins, op.outs
                mark = Tensor(
                    source.shape, source.dtype, f"{marked.name}_before", None, marked.grid
                )
                moved = Tensor(marked.shape, marked.dtype, marked.name)
                ops = list(network.ops)
                ops[place] = Op(move.code, [mark, *rest], [moved], move.options, move.line)
                ops[ops.index(move)] = Op("FAKE_QUANT", [source], [mark], {}, op.line)
                network = network.replace({marked: moved}, ops)
                break
        else:
            return network


class _Integers:
    def __init__(self, network: Network, hybrid: bool) -> None:
        self.old, self.hybrid = network, hybrid
        self.ops: list[Op] = []
        self.stored: dict[Tensor, Tensor] = {}
        """The integers of a tensor of the old network."""
        self.floats: dict[Tensor, Tensor] = {}
        """The floats of one that was integers first."""
        self.rounded_here: dict[Tensor, Tensor] = {}
        """What a mark made integers of that was floats."""
        self.marks = _marks(network)

    def network(self) -> Network:
        for op in self.old.ops:
            if op.code == "FAKE_QUANT":
                self._mark(op)
            elif not self._integer(op):
                self._float(op)
        outputs = {name: self._as_float(each) for name, each in self.old.outputs.items()}
        return Network(self.ops, self.old.inputs, outputs).without_dead()

    def _mark(self, op: Op) -> None:
        (x,), (out,) = op.ins, op.outs
        assert out.grid is not None
        now = self.stored.get(x)
        if now is None or not out.grid.same(now.grid):
            source = now or self._as_float(x)
            if now is None:
                self.rounded_here[out] = source
            now = Tensor(x.shape, INT8, out.name, None, out.grid)
            self.ops.append(Op("QUANTIZE", [source], [now], {}, op.line))
        self.stored[out] = now

    def _integer(self, op: Op) -> bool:
        count = len(op.ins) if op.code in SEVERAL else 1
        known = [self._as_integer(each) for each in op.ins[:count]]
        data = [each for each in known if each is not None]
        grids = [each.grid for each in data if each.grid is not None]
        if len(grids) < count or any(grid.scale.size > 1 for grid in grids):
            return False
        rest = list(op.ins[count:])
        target: Grid | None = self.marks.get(op.outs[0])
        if op.code in CONTRACTIONS:
            kernel, bias = rest
            if target is None or kernel.grid is None or not kernel.grid.is_symmetric:
                return False
            rest = [kernel, _int32(bias, grids[0], kernel.grid)]
        elif op.code in KEEPING:
            if not all(grid.same(grids[0]) for grid in grids):
                return False
            target = grids[0]
        elif op.code == "AVERAGE_POOL_2D":
            if not grids[0].same(target):
                return False
        elif op.code in FIXED:
            if not FIXED[op.code].same(target):
                return False
        elif op.code not in RESCALING:
            return False
        elif op.code == "RELU":
            target = target or grids[0]
        if target is None:
            return False
        out = op.outs[0]
        made = Tensor(out.shape, INT8, f"{out.name}_integer", None, target)
        self.stored[out] = made
        self.ops.append(Op(op.code, [*data, *rest], [made], op.options, op.line))
        return True

    def _float(self, op: Op) -> None:
        ins = [self._as_float(each) for each in op.ins]
        kernel = op.ins[1] if op.code in CONTRACTIONS else None
        options = op.options
        by_matrix = op.code == "FULLY_CONNECTED" and op.ins[0] in self.stored
        if (self.hybrid or by_matrix) and kernel and kernel.grid and kernel.grid.is_symmetric:
            ins[:2] = [self.rounded_here.get(op.ins[0], ins[0]), kernel]
            options = {**options, "asymmetricQuantizeInputs": True} if by_matrix else options
        self.ops.append(Op(op.code, ins, op.outs, options, op.line))

    def _as_integer(self, x: Tensor) -> Tensor | None:
        if x.data is not None:
            return x if x.grid is not None else None
        return self.stored.get(x)

    def _as_float(self, x: Tensor) -> Tensor:
        source = self._as_integer(x)
        if source is None:
            return x
        if x not in self.floats:
            self.floats[x] = Tensor(x.shape, FLOAT, f"{x.name}_float")
            self.ops.append(Op("DEQUANTIZE", [source], [self.floats[x]]))
        return self.floats[x]


def _marks(network: Network) -> Mapping[Tensor, Grid]:
    """The grid of what is read by marks of one grid and by nothing else."""
    found = {}
    outputs = set(network.outputs.values())
    for tensor, readers in network.readers().items():
        grids = [op.outs[0].grid for op in readers if op.code == "FAKE_QUANT"]
        if len(grids) < len(readers) or tensor in outputs or (grid := grids[0]) is None:
            continue
        if all(grid.same(other) for other in grids):
            found[tensor] = grid
    return found


def _int32(bias: Tensor, x: Grid, kernel: Grid) -> Tensor:
    assert bias.data is not None
    scale = x.scale.astype(np.float64) * kernel.scale.astype(np.float64)
    ends = np.iinfo(np.int32)
    steps = np.clip(np.round(bias.data / scale), ends.min, ends.max).astype(np.int32)
    grid = Grid(scale.astype(np.float32), np.zeros(scale.size, np.int64), 0)
    return constant(steps, bias.name, grid)
