"""How much a compiled program reads from and writes to a device's main memory."""

from slim.measure.hlo import Computation, Instruction, Program

_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
)
# Of an exchange that goes on inside of other operations, and stands in all of them.
_CHAIN = 'chain_id="'
_SLICES = ("dynamic-slice", "slice", "gather")
_THROUGH = ("bitcast", "copy", "reshape", "convert", "transpose")


def traffic(program: Program) -> int:
    """Bytes that one call reads and writes on one device, of the operations as they are fused.

    A value that stays in a core's own memory costs nothing, a slice of an array what it takes, an
    update of a part of one what it writes. What an operation reads twice counts once. A kernel of
    its own (a custom call) counts its operands and results once.

    >>> from slim.measure.hlo import parse
    >>> traffic(parse('''ENTRY %main (x: f32[4]) -> f32[4] {
    ...   %x = f32[4]{0} parameter(0)
    ...   ROOT %y = f32[4]{0} add(%x, %x)
    ... }'''))
    32
    """
    inner = {
        name
        for instruction in program.instructions()
        if instruction.opcode not in ("while", "conditional", "call", "async-start")
        for name in instruction.called
    }
    return sum(
        program.times.get(name, 0) * sum(_moved(program, found, i) for i in found.values())
        for name, found in program.computations.items()
        if name not in inner
    )


def _moved(program: Program, inside: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or opcode.startswith("async-"):
        return 0
    operands = [inside[name] for name in dict.fromkeys(instruction.operands)]
    if opcode.endswith("-start"):
        # Its shape holds the operands again, beside the results.
        return max(_held(instruction), sum(map(_held, operands)))
    if opcode == "fusion":
        body = program.computations[instruction.called[0]]
        return _read_by(program, inside, instruction, body) + _written(program, instruction, body)
    if opcode == "dynamic-update-slice":
        return 2 * _held(inside[instruction.operands[1]])
    if opcode in _SLICES:
        return 2 * _held(instruction)
    return _held(instruction) + sum(map(_held, operands))


def _held(instruction: Instruction) -> int:
    """Bytes of a value in main memory."""
    return sum(array.bytes for array in instruction.arrays if array.in_main_memory)


def _all(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays)


def _read_by(program: Program, inside: Computation, fusion: Instruction, body: Computation) -> int:
    """What a fusion reads of its operands."""
    parameters = {int(i.operands[0]): i.name for i in body.values() if i.opcode == "parameter"}
    total = 0
    for place, name in enumerate(fusion.operands):
        whole = _held(inside[name])
        if whole and name not in fusion.operands[:place]:
            total += min(whole, _taken(program, body, parameters[place]))
    return total


def _taken(program: Program, body: Computation, name: str) -> int:
    """How much of a value is read where it is used."""
    total = 0
    for user in body.values():
        if user.opcode in ("parameter", "constant", "tuple") or name not in user.operands:
            continue
        if _CHAIN in user.attributes:
            continue  # counts where it starts
        if user.opcode in _SLICES and user.operands[0] == name:
            total += _all(user)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            pass  # what is not replaced stays where it is
        elif user.opcode == "bitcast":
            total += _taken(program, body, user.name)
        elif user.opcode == "fusion":
            inner = program.computations[user.called[0]]
            place = str(user.operands.index(name))
            parameter = next(
                i for i in inner.values() if i.opcode == "parameter" and i.operands[0] == place
            )
            total += _taken(program, inner, parameter.name)
        else:
            return _all(body[name])
    return total


def _written(program: Program, fusion: Instruction, body: Computation) -> int:
    """What a fusion writes: of an array that is updated in place the new part."""
    root = next(i for i in body.values() if i.root)
    if 'custom_call_target="AsyncCollectiveDone"' in root.attributes:
        return 0
    results = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(results) != len(fusion.arrays):
        return _held(fusion)
    total = 0
    for result, array in zip(results, fusion.arrays, strict=True):
        if array.in_main_memory:
            total += min(array.bytes, _new(program, body, result))
    return total


def _new(program: Program, body: Computation, result: Instruction) -> int:
    while result.opcode in _THROUGH:
        result = body[result.operands[0]]
    if result.opcode == "parameter" or _CHAIN in result.attributes:
        return 0  # handed on
    if result.opcode == "dynamic-update-slice":
        return _all(body[result.operands[1]])
    if result.opcode == "fusion":
        inner = program.computations[result.called[0]]
        return _new(program, inner, next(i for i in inner.values() if i.root))
    return _all(result)
