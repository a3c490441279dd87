r"""Reads XLA's text of a compiled program: its computations, and how often each runs in one call.

XLA's own `cost_analysis` counts the body of a loop once; here a body counts as often as it runs,
which stands in the text, or follows from the constants that the loop counts from and to.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation|called_computations"
    r"|branch_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_MEMORY = re.compile(r"S\((\d+)\)")
_BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64}
_MOVED = ("copy", "bitcast", "copy-start", "copy-done", "reshape", "opt-barrier")


class Array(NamedTuple):
    """One array of a shape.

    Attributes:
        dtype: XLA's name: `bf16`.
        dims: its sizes.
        layout: what stands between the braces: `1,0:T(8,128)S(1)`.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Without the padding of its tiles.

        >>> Array("bf16", (3, 4), "1,0").bytes
        24
        """
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.sub(r"^[a-z]+(\d+).*", r"\1", self.dtype))
        return math.ceil(math.prod(self.dims) * bits / 8)

    @property
    def in_main_memory(self) -> bool:
        """Whether it lies in the device's main memory, not in what a core has of its own."""
        found = _MEMORY.search(self.layout)
        return found is None or found[1] == "0"


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: unique in the program.
        opcode: `all-gather-start`.
        shape: the text of its result's shape, maybe a tuple's.
        operands: the names of its operands; of a parameter or a constant what is written there.
        attributes: the text after the operands.
        root: whether it is its computation's result.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result."""
        return arrays(self.shape)

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs."""
        return tuple(
            name for part in _CALLED.findall(self.attributes) for name in _NAME.findall(part)
        )

    def attribute(self, name: str) -> str | None:
        """The text of an attribute without commas of its own, such as `direction`."""
        found = re.search(rf"\b{name}=([^,\s]+)", self.attributes)
        return found and found[1]


Computation = dict[str, Instruction]


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape's text.

    >>> arrays("(f32[2,3]{1,0}, s32[])")
    (Array(dtype='f32', dims=(2, 3), layout='1,0'), Array(dtype='s32', dims=(), layout=''))
    """
    return tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


@dataclass(frozen=True)
class Program:
    """A compiled program of one device.

    Attributes:
        computations: by name, each the instructions in order, by theirs.
        entry: the name of the one that a call runs.
        devices: how many run it together.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs in a call; all branches of a condition count as taken."""
        found: dict[str, int] = {}
        self._run(self.entry, 1, found)
        return found

    @cached_property
    def unknown_trips(self) -> tuple[str, ...]:
        """The loops, by name, of which it is not known how often they run; they count once."""
        return tuple(
            i.name for i in self.instructions() if i.opcode == "while" and self.trips(i) is None
        )

    def instructions(self) -> Iterator[Instruction]:
        """All of them."""
        for computation in self.computations.values():
            yield from computation.values()

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop's body runs; None where that is unknown."""
        known = _KNOWN_TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[(loop.attribute("condition") or "").lstrip("%")]
        body = self.computations[(loop.attribute("body") or "").lstrip("%")]
        test = _root(condition)
        if test.opcode != "compare" or test.attribute("direction") != "LT":
            return None
        counter, limit = (_source(condition, name) for name in test.operands)
        if counter.opcode != "get-tuple-element":
            return None
        place = int(counter.attribute("index") or 0)
        initial = self._passed(loop, place)
        # Loop-invariant constants may be passed in beside what the loop changes.
        if limit.opcode == "get-tuple-element":
            limit = self._passed(loop, int(limit.attribute("index") or 0))
        step = _step(body, place)
        if step is None or initial.opcode != "constant" or limit.opcode != "constant":
            return None
        return max(0, -(-(int(limit.operands[0]) - int(initial.operands[0])) // step))

    def holder(self, instruction: Instruction) -> Computation:
        """The computation that an instruction stands in."""
        return self.computations[self._holders[instruction.name]]

    @cached_property
    def _holders(self) -> dict[str, str]:
        return {name: key for key, found in self.computations.items() for name in found}

    def _passed(self, loop: Instruction, place: int) -> Instruction:
        """What a loop starts with in one place of its state."""
        outside = self.holder(loop)
        state = _source(outside, loop.operands[0])
        if state.opcode != "tuple":
            return state
        return _source(outside, state.operands[place])

    def _run(self, name: str, times: int, found: dict[str, int]) -> None:
        found[name] = found.get(name, 0) + times
        for instruction in self.computations[name].values():
            runs = times
            if instruction.opcode == "while":
                trips = self.trips(instruction)
                runs *= 1 if trips is None else trips
            for called in instruction.called:
                self._run(called, runs, found)


def parse(text: str) -> Program:
    """The program of `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.

    >>> program = parse('''ENTRY %main (x: f32[4]) -> f32[4] {
    ...   %x = f32[4]{0} parameter(0)
    ...   ROOT %y = f32[4]{0} add(%x, %x)
    ... }''')
    >>> program.computations["main"]["y"].operands
    ('x', 'x')
    """
    computations: dict[str, Computation] = {}
    entry = None
    current: Computation = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not that of a compiled program")
    devices = [
        int(n)
        for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    ]
    return Program(computations, entry, math.prod(devices))


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    opcode, _, _ = right[end:].strip().partition("(")
    start = right.index("(", end)
    stop = _closing(right, start)
    inside = right[start + 1 : stop - 1]
    written = opcode in ("constant", "parameter")
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode,
        shape=right[:end],
        operands=(inside,) if written else tuple(_NAME.findall(inside)),
        attributes=right[stop:],
        root=left.startswith("ROOT "),
    )


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _root(computation: Computation) -> Instruction:
    return next(i for i in computation.values() if i.root)


def _source(computation: Computation, name: str) -> Instruction:
    """What a value is a copy of."""
    found = computation[name]
    while found.opcode in _MOVED:
        found = computation[found.operands[0]]
    return found


def _step(body: Computation, place: int) -> int | None:
    """By how much a loop's body raises one place of its state; None where that is not said."""
    state = _root(body)
    if state.opcode != "tuple":
        return None
    raised = _source(body, state.operands[place])
    if raised.opcode != "add":
        return None
    steps = [_source(body, name) for name in raised.operands]
    # The constant may be one that is passed in; scans count by one.
    constants = [int(s.operands[0]) for s in steps if s.opcode == "constant"]
    return constants[0] if constants else 1
