"""Parse the text of a compiled program, `compiled.as_text()`: XLA's HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}


class Array(NamedTuple):
    """An array of a program's text, such as "bf16[8,512]{1,0:T(8,128)(2,1)S(1)}".

    Attributes:
        dtype: XLA's name of the dtype, such as "bf16".
        shape: the length of each axis.
        order: the axes from the fastest varying in memory to the slowest.
        tile: the extents of a tile, which memory is allocated in.
        on_chip: whether the array is in a core's own memory, space S(1) and above, and not in the chip's.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Bytes in the chip's memory, with the padding of the tiles; 0 for an array in a core's own memory."""
        return 0 if self.on_chip else self.padded_bytes

    @property
    def padded_bytes(self) -> int:
        """Bytes with the padding of the tiles, in whichever memory."""
        extents = [self.shape[axis] for axis in self.order] if self.order else list(reversed(self.shape))
        for axis, size in enumerate(reversed(self.tile)):
            if axis < len(extents):
                extents[axis] = -(-extents[axis] // size) * size
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)  # a token has no bits
        return math.prod(extents) * bits // 8


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: the name of its value.
        results: the arrays that it makes; several for a tuple.
        operation: its opcode, such as "fusion".
        operands: the names of its operands; for a constant or a parameter, the text in the brackets.
        attributes: the text after the operands.
        root: whether its value is the result of the computation.
    """

    name: str
    results: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, key: str) -> str:
        """Return the name of the computation that an attribute names, such as "body"."""
        match = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        assert match is not None, f"{self.name} has no {key}"
        return match[1]


class Computation:
    """The instructions of one computation of a program."""

    def __init__(self, instructions: list[Instruction]):
        """Index the instructions by name."""
        self.instructions = instructions
        self.by_name = {each.name: each for each in instructions}

    @cached_property
    def root(self) -> Instruction:
        """The instruction whose value is the result."""
        return next(each for each in self.instructions if each.root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """{number: instruction} of the parameters."""
        return {int(each.operands[0]): each for each in self.instructions if each.operation == "parameter"}

    def users(self, name: str) -> list[tuple[Instruction, int]]:
        """Return (instruction, index of the operand) for each use of a value, directly or through bitcasts."""
        users = []
        for each in self.instructions:
            for index, operand in enumerate(each.operands):
                if operand == name and each.operation != "parameter":
                    users += self.users(each.name) if each.operation == "bitcast" else [(each, index)]
        return users

    def source(self, name: str) -> Instruction:
        """Return the instruction that makes a value, looking through bitcasts."""
        each = self.by_name[name]
        return self.source(each.operands[0]) if each.operation == "bitcast" else each

    def operand_arrays(self, instruction: Instruction) -> list[Array]:
        """Return the arrays of all operands."""
        return [array for name in instruction.operands if name in self.by_name for array in self.by_name[name].results]


class Program(NamedTuple):
    """A parsed program: its computations by name, and the name of the one that runs first."""

    entry: str
    computations: dict[str, Computation]

    def called(self, instruction: Instruction, key: str) -> Computation:
        """Return the computation that an attribute of an instruction names, such as "body"."""
        return self.computations[instruction.called(key)]


def parse_program(text: str) -> Program:
    """Parse the text of a compiled program."""
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    assert entry is not None, "the text of a compiled program has an entry"
    return Program(entry[1], {name: Computation(instructions) for name, instructions in _computations(text)})


def _computations(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    name, instructions = "", []
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, instructions = head[1], []
        elif line.startswith("}") and name:
            yield name, instructions
            name = ""
        elif name and (instruction := _instruction(line)):
            instructions.append(instruction)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing_bracket(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].lstrip()
    operation, _, rest = rest.partition("(")
    end = _closing_bracket("(" + rest) - 1
    inside, attributes = rest[:end], rest[end + 1 :]
    # XLA writes operands with or without their types, and with or without %.
    names = (
        each.split()[-1].lstrip("%")
        for each in re.sub(r"\{[^}]*\}|\[[^\]]*\]|/\*.*?\*/", "", inside).split(",")
        if each.strip()
    )
    operands = (inside,) if operation in ("constant", "parameter") else tuple(names)
    return Instruction(head[2], tuple(_arrays(shapes)), operation.strip(), operands, attributes, bool(head[1]))


def _closing_bracket(text: str) -> int:
    """Return where the bracket closes that a text begins with."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", text):
        order, _, tiling = layout.strip("{}").partition(":")
        tile = re.search(r"T\(([\d,]+)\)", tiling)
        space = re.search(r"S\((\d+)\)", tiling)
        yield Array(
            dtype,
            _numbers(shape),
            _numbers(order),
            _numbers(tile[1]) if tile else (),
            on_chip=space is not None and space[1] != "0",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(",") if each)
