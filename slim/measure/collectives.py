"""What the devices of a compiled program send each other: kind, bytes, groups, times."""

import math
import re
from dataclasses import dataclass

import numpy as np

from slim.measure.hlo import Array, Computation, Instruction, Program

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_GROUPS = re.compile(r"replica_groups=(.*)")
_IOTA = re.compile(r"^\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"^\{(\{[\d,]*\}(?:,\{[\d,]*\})*)?\}")
_MESH = re.compile(
    r"^mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}(?:,|$)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
# Rows and columns of a tile, from the layout; the device moves whole tiles.
_TILE = re.compile(r"T\((\d+),(\d+)\)")


@dataclass(frozen=True)
class Collective:
    """One exchange, on one device.

    Attributes:
        name: the instruction's.
        kind: one of `KINDS`.
        bytes: of what is exchanged, each time: of a gather the whole result, else the operands; of
            a ragged exchange the rows that there is room for.
        group: the devices, by their place in the mesh, of the first group that takes part.
        times: how often in one call.
        source: where the program says that it comes from; may be "".
        gathers: whether it is an all-reduce that a gather was turned into, or one among several at
            once: every device adds its part to zeros, and twice the bytes of a gather are sent.
        misaligned: of such a one, whether that part is no multiple of the device's tiles.
    """

    name: str
    kind: str
    bytes: int
    group: tuple[int, ...]
    times: int
    source: str = ""
    gathers: bool = False
    misaligned: bool = False

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, in rings: the least that suffices.

        >>> Collective("a", "all-reduce", 800, (0, 1, 2, 3), 1).sent
        1200.0
        """
        share = (len(self.group) - 1) / max(len(self.group), 1)
        if self.kind in ("collective-permute", "collective-broadcast"):
            share = 1.0
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def collectives(program: Program) -> tuple[Collective, ...]:
    """All exchanges between more than one device, in the order of the text.

    An asynchronous one counts once, at its start, also where TPUs' compiler lets it go on inside
    of other operations: then it stands in all of them. A reduce-scatter that stands as an
    all-reduce of which a device keeps a part, fused to one operation, counts as what it is; so
    do several at once.

    Raises:
        ValueError: groups of devices that are written in a way which is not known.
    """
    found = []
    chains = set()
    for computation, instructions in program.computations.items():
        times = program.times.get(computation, 0)
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            chain = _CHAIN.search(instruction.attributes)
            if kind in KINDS and times and (chain is None or chain[1] not in chains):
                chains.add(chain and chain[1])
                found.append(_collective(program, instruction, kind, times))
    return tuple(each for each in found if len(each.group) > 1)


def _collective(program: Program, instruction: Instruction, kind: str, times: int) -> Collective:
    group = first_group(instruction.attributes, program.devices)
    inside = program.holder(instruction)
    operands = [inside[name] for name in instruction.operands]
    if kind == "ragged-all-to-all":
        operands = operands[:1]  # beside it are where results go, and who sends how much
    size = sum(array.bytes for operand in operands for array in operand.arrays)
    parts: list[tuple[Array, Array]] = []
    if kind == "all-gather":
        size *= len(group)
    elif kind == "all-reduce":
        if _scattered(inside):
            kind = "reduce-scatter"
        else:
            both = ((_part(program, operand), operand.arrays[0]) for operand in operands)
            parts = [(part, whole) for part, whole in both if part is not None]
    where = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Collective(
        name=instruction.name,
        kind=kind,
        bytes=size,
        group=group,
        times=times,
        source=where[1] if where else "",
        gathers=bool(parts),
        misaligned=not all(_whole_tiles(part, whole) for part, whole in parts),
    )


def _scattered(inside: Computation) -> bool:
    """Whether a computation gives a part alone of what it sums, or of each that it sums."""
    root = next((i for i in inside.values() if i.root), None)
    if root is not None and root.opcode == "tuple":
        return all(inside[name].opcode == "dynamic-slice" for name in root.operands)
    return root is not None and root.opcode == "dynamic-slice"


def _part(program: Program, operand: Instruction) -> Array | None:
    """What an all-reduce's operand has of a device's own, where all else in it is zeros."""
    fusion, inside = None, program.holder(operand)
    if operand.opcode == "fusion":
        fusion = operand
        inside = program.computations[fusion.called[0]]
        operand = next(i for i in inside.values() if i.root)
    operand = _moved(inside, operand)
    if operand.opcode != "dynamic-update-slice":
        return None
    into = _moved(inside, inside[operand.operands[0]])
    if into.opcode == "parameter" and fusion is not None:
        outside = program.holder(fusion)
        into = _moved(outside, outside[fusion.operands[int(into.operands[0])]])
    update = inside[operand.operands[1]].arrays[0]
    return update if into.opcode in ("broadcast", "constant") else None


def _moved(inside: Computation, found: Instruction) -> Instruction:
    while found.opcode in ("bitcast", "copy"):
        found = inside[found.operands[0]]
    return found


def _whole_tiles(part: Array, whole: Array) -> bool:
    """Whether a part of an array fills tiles, along the dimensions that it is a part of."""
    tile = _TILE.search(whole.layout)
    if tile is None or len(part.dims) != len(whole.dims):
        return True
    order = [int(n) for n in whole.layout.partition(":")[0].split(",") if n]
    return all(
        part.dims[d] == whole.dims[d] or part.dims[d] % int(size) == 0
        for d, size in zip(order, (tile[2], tile[1]), strict=False)
    )


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """The devices of a collective's first group.

    Args:
        attributes: of its instruction.
        devices: how many there are.

    Raises:
        ValueError: groups that are written in a way which is not known.

    >>> first_group("channel_id=1, replica_groups={{0,2},{1,3}}, dimensions={0}", 4)
    (0, 2)
    >>> first_group("replica_groups=[2,4]<=[4,2]T(1,0), use_global_device_ids=true", 8)
    (0, 2, 4, 6)
    >>> first_group("replica_groups=mesh['a'=4,'b'=2] {'b'}, dimensions={1}", 8)
    (0, 1)
    """
    pairs = _PAIRS.search(attributes)
    if pairs is not None:
        return tuple(int(n) for n in re.findall(r"\d+", pairs[1])[:2])
    given = _GROUPS.search(attributes)
    text = given[1] if given else "{}"
    if lists := _LISTS.match(text):
        first = re.match(r"\{([\d,]*)\}", lists[1] or "")
        numbers = _numbers(first[1]) if first else ()
        return numbers or tuple(range(devices))
    if iota := _IOTA.match(text):
        ids = np.arange(math.prod(_numbers(iota[2]))).reshape(_numbers(iota[2]))
        if iota[3]:
            ids = ids.transpose(_numbers(iota[3]))
        return tuple(ids.reshape(_numbers(iota[1]))[0].tolist())
    if mesh := _MESH.match(text):
        return _of_mesh(*mesh.groups())
    raise ValueError(f"the devices of a collective are written in an unknown way: {text[:80]!r}")


def _of_mesh(axes: str, ids: str | None, order: str | None, used: str) -> tuple[int, ...]:
    """Of a mesh's axes; one may be split, `'a':(2)4`: four places, each two of its steps apart."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    grid = np.arange(math.prod(sizes.values()))
    if ids:
        grid = grid.reshape(_numbers(ids))
        grid = grid.transpose(_numbers(order)) if order else grid
    grid = grid.reshape(tuple(sizes.values()))
    pick: list[slice | int] = [0] * len(sizes)
    shape = []
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used):
        size = int(part) if part else sizes[name]
        stride = sizes[name] // (int(before or 1) * size)
        pick[list(sizes).index(name)] = slice(0, size * stride, stride)
        shape.append(size)
    return tuple(grid[tuple(pick)].reshape(-1).tolist())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
