"""Count the bytes that an instruction moves between a chip's memory and its cores.

An instruction moves its operands and its results. Slices, gathers and updates in place move only the part that they
read or write. Values inside a fusion are not moved.
"""

from __future__ import annotations

from .hlo_text import Array, Computation, Instruction, Program

_READS_A_PART = ("dynamic-slice", "slice", "gather")


def bytes_moved(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Count the bytes that an instruction moves; it is neither a call nor a collective.

    Args:
        instruction: the instruction.
        computation: the computation that contains the instruction.
        program: the program that contains the computation.
    """
    operands = computation.operand_arrays(instruction)
    if instruction.operation == "fusion":
        inner = program.called(instruction, "calls")
        read = sum(
            min(_bytes_read(inner, parameter.name, operand, program), operand.bytes)
            for number, parameter in inner.parameters.items()
            for operand in operands[number : number + 1]
        )
        return read + _bytes_written(inner, instruction)
    if instruction.operation.endswith("-start"):
        # The results of a copy are (target, source, ...), those of a slice (source, target, ...).
        source, target = operands[0], instruction.results[0]
        if instruction.operation == "slice-start" and len(instruction.results) > 1:
            target = instruction.results[1]
        return (target.padded_bytes if source.bytes else 0) + target.bytes
    written = sum(array.bytes for array in instruction.results)
    if instruction.operation in _READS_A_PART:
        return written + sum(instruction.results[0].padded_bytes for array in operands[:1] if array.bytes)
    if instruction.operation in ("dynamic-update-slice", "scatter"):
        update = operands[1 if instruction.operation == "dynamic-update-slice" else 2]
        return update.bytes + (update.padded_bytes if written else 0)
    return written + sum(array.bytes for array in operands)


def _bytes_read(computation: Computation, name: str, operand: Array, program: Program) -> int:
    """Count the bytes that a fusion reads of a parameter: all of it, unless each user reads only a part."""
    if not operand.bytes:
        return 0
    read = 0
    for user, index in computation.users(name):
        if user.operation in _READS_A_PART and index == 0:
            read += user.results[0].padded_bytes
        elif user.operation == "dynamic-update-slice" and index == 0:
            continue  # overwritten in place, not read
        elif user.operation == "fusion":
            inner = program.called(user, "calls")
            read += _bytes_read(inner, inner.parameters[index].name, operand, program)
        else:
            return operand.bytes
    return read


def _bytes_written(inner: Computation, fusion: Instruction) -> int:
    """Count the bytes that a fusion writes: its results, but only the update of a result that is updated in place."""
    root = inner.root
    parts = [inner.source(name) for name in root.operands] if root.operation == "tuple" else [inner.source(root.name)]
    written = 0
    for part, result in zip(parts, fusion.results, strict=False):
        if part.operation == "dynamic-update-slice" and result.bytes:
            written += inner.by_name[part.operands[1]].results[0].padded_bytes
        else:
            written += result.bytes
    return written
