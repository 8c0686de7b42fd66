"""What a compiled program does, counted from its text: FLOPs, bytes to and from memory, collectives.

XLA's own `cost_analysis` counts the body of a loop once. Here a loop's body counts as often as it runs, an array counts
with the padding of its tiles, and one that stays in a core's own memory (space S(1) and above) counts nothing. An
instruction moves its operands and its results; of what it only reads or writes a part of (slices, gathers, updates in
place), that part. What an instruction does in a fusion moves nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}
# These name, order or wait for arrays; they touch none.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency"),
}
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "MoveToHost", "MoveToDevice")
_READS_A_PART = ("dynamic-slice", "slice", "gather")


class Array(NamedTuple):
    """An array of a program's text: "bf16[8,512]{1,0:T(8,128)(2,1)S(1)}"."""

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]  # axes, the one whose elements lie side by side first
    tile: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """In the chip's memory, tiles filled up; 0 where it is in a core's own."""
        if self.on_chip:
            return 0
        extents = [self.shape[axis] for axis in self.order] if self.order else list(reversed(self.shape))
        for place, size in enumerate(reversed(self.tile)):
            if place < len(extents):
                extents[place] = -(-extents[place] // size) * size
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 0)  # a token has none
        return math.prod(extents) * bits // 8


class Instruction(NamedTuple):
    name: str
    results: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str  # all that stands behind the operands; of a constant and a parameter, what stands between
    root: bool

    def called(self, key: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        assert found is not None, f"{self.name} has no {key}"
        return found[1]


class Kernel(NamedTuple):
    """What a call of a hand-written kernel does."""

    flops: int
    bytes: int


@dataclass
class Costs:
    """What a program does on one device: `kinds` are the bytes by operation, `received` what collectives give."""

    flops: float = 0.0
    bytes: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    largest_received: int = 0  # bytes of the largest array that a collective gives
    unknown_loops: int = 0  # whose number of turns the text does not tell; they count once

    def add(self, other: Costs, times: int = 1) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for mine, theirs in (
            (self.kinds, other.kinds),
            (self.collectives, other.collectives),
            (self.received, other.received),
        ):
            mine.update({key: times * value for key, value in theirs.items()})
        self.largest_received = max(self.largest_received, other.largest_received)
        self.unknown_loops += other.unknown_loops

    def moved(self, kind: str, count: int) -> None:
        self.bytes += count
        self.kinds[kind] += count


# What a call of a kernel does, given its operands and results.
KernelCost = Callable[[list[Array], list[Array]], Kernel]


def costs(text: str, kernels: Mapping[str, KernelCost] | None = None) -> Costs:
    """Count a compiled program (`compiled.as_text()`). `kernels` are known by a part of their calls' text."""
    return _Program(text, kernels or {}).costs(_entry(text))


def _entry(text: str) -> str:
    found = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    assert found is not None, "the text of a compiled program has an entry"
    return found[1]


class _Computation:
    def __init__(self, instructions: list[Instruction]):
        self.instructions = instructions
        self.by_name = {each.name: each for each in instructions}

    @cached_property
    def root(self) -> Instruction:
        return next(each for each in self.instructions if each.root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        found = [each for each in self.instructions if each.operation == "parameter"]
        return {int(each.operands[0]): each for each in found}

    def users(self, name: str) -> list[tuple[Instruction, int]]:
        """(instruction, which operand) of all that use a value, bitcasts looked through."""
        found = []
        for each in self.instructions:
            for place, operand in enumerate(each.operands):
                if operand == name and each.operation != "parameter":
                    found += self.users(each.name) if each.operation == "bitcast" else [(each, place)]
        return found

    def source(self, name: str) -> Instruction:
        """The instruction behind bitcasts."""
        each = self.by_name[name]
        return self.source(each.operands[0]) if each.operation == "bitcast" else each


class _Program:
    def __init__(self, text: str, kernels: Mapping[str, KernelCost]):
        self.computations = {name: _Computation(found) for name, found in _computations(text)}
        self.kernels = kernels
        self.counted: dict[str, Costs] = {}

    def costs(self, name: str) -> Costs:
        """What one run of a computation does."""
        if name not in self.counted:
            total = Costs()
            computation = self.computations[name]
            for each in computation.instructions:
                self._count(each, computation, total)
            self.counted[name] = total
        return self.counted[name]

    def _count(self, each: Instruction, computation: _Computation, total: Costs) -> None:
        operation = each.operation.removesuffix("-start")
        if each.operation.endswith(("-done", "-update")) or operation in _FREE:
            return
        if operation == "while":
            turns = self._turns(each, computation)
            total.unknown_loops += turns is None
            total.add(self.costs(each.called("body")), turns or 1)
        elif operation == "conditional":
            branches = re.findall(
                r"%([\w.\-]+)", each.attributes.partition("branch_computations={")[2].partition("}")[0]
            )
            branches = branches or [each.called("true_computation"), each.called("false_computation")]
            total.add(max((self.costs(branch) for branch in branches), key=lambda found: (found.flops, found.bytes)))
        elif operation in ("call", "async"):
            total.add(self.costs(each.called("calls" if "calls=" in each.attributes else "to_apply")))
        elif operation in COLLECTIVES:
            result = each.results[-1] if each.operation.endswith("-start") and len(each.results) > 1 else None
            arrays = each.results if result is None else each.results[1:2]
            received = sum(array._replace(on_chip=False).bytes for array in arrays)
            total.collectives[operation] += 1
            total.received[operation] += received
            total.largest_received = max(total.largest_received, received)
            total.moved(operation, sum(array.bytes for array in (*arrays, *self._arrays(each, computation))))
        elif operation == "custom-call":
            self._count_call(each, computation, total)
        else:
            total.flops += self._flops(each, computation)
            total.moved(self._kind(each), self._moved(each, computation))

    def _count_call(self, each: Instruction, computation: _Computation, total: Costs) -> None:
        operands = self._arrays(each, computation)
        for name, kernel in self.kernels.items():
            if name in each.attributes or name in each.name:
                done = kernel(operands, list(each.results))
                total.flops += done.flops
                total.moved(name, done.bytes)
                return
        if not any(f'"{name}"' in each.attributes for name in _FREE_CALLS):
            total.moved("custom-call", sum(array.bytes for array in (*operands, *each.results)))

    def _turns(self, loop: Instruction, computation: _Computation) -> int | None:
        """How often a loop's body runs: as XLA says, or as a counter gets from a constant to one by steps of one.

        The compiler of TPUs does two turns of a loop in one where that hides what is received.
        """
        if found := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes):
            return int(found[1])
        condition = self.computations[loop.called("condition")]
        compared = condition.root
        sides = [condition.source(name) for name in compared.operands[:2]]
        if compared.operation == "fusion":  # of the comparison alone
            compared = self.computations[compared.called("calls")].root
        if compared.operation != "compare" or "direction=LT" not in compared.attributes or len(sides) != 2:
            return None
        counter, limit = sides
        place = re.search(r"\bindex=(\d+)", counter.attributes)
        if limit.operation != "constant" or place is None:
            return None
        body = self.computations[loop.called("body")]
        step = self._constants(body, body.root.operands[int(place[1])])
        start = self._constants(computation, computation.source(loop.operands[0]).operands[int(place[1])])
        return -(-(int(limit.operands[0]) - sum(start)) // (sum(step) or 1))

    def _constants(self, computation: _Computation, name: str) -> list[int]:
        """The numbers that a value is made of: it is a constant, a copy of one, or the sum of one and a counter."""
        each = computation.source(name)
        if each.operation == "constant":
            return [int(each.operands[0])]
        if each.operation in ("add", "copy"):
            return [number for operand in each.operands for number in self._constants(computation, operand)]
        if each.operation == "fusion":
            inner = self.computations[each.called("calls")]
            given = [number for operand in each.operands for number in self._constants(computation, operand)]
            return given + self._constants(inner, inner.root.name)
        return []

    def _arrays(self, each: Instruction, computation: _Computation) -> list[Array]:
        return [
            array
            for name in each.operands
            if name in computation.by_name
            for array in computation.by_name[name].results
        ]

    def _kind(self, each: Instruction) -> str:
        """By what a fusion is known: its products, else its root."""
        if each.operation != "fusion":
            return each.operation.removesuffix("-start")
        inner = self.computations[each.called("calls")]
        if self._flops(each, inner):
            return "products"
        return f"fusion of {inner.source(inner.root.name).operation if inner.root.operands else inner.root.operation}"

    def _flops(self, each: Instruction, computation: _Computation) -> float:
        if each.operation == "fusion":
            inner = self.computations[each.called("calls")]
            return sum(self._flops(part, inner) for part in inner.instructions)
        if each.operation == "dot":
            left = computation.by_name[each.operands[0]].results[0]
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
            contracted = [left.shape[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
            return 2.0 * math.prod(each.results[0].shape) * math.prod(contracted)
        if each.operation == "convolution":
            return _convolution_flops(each, *(computation.by_name[name].results[0] for name in each.operands[:2]))
        return 0.0

    def _moved(self, each: Instruction, computation: _Computation) -> int:
        """Bytes to and from memory of an instruction that is no call."""
        if each.operation == "fusion":
            inner = self.computations[each.called("calls")]
            operands = self._arrays(each, computation)
            read = sum(
                min(self._read(inner, parameter.name, operand), operand.bytes)
                for number, parameter in inner.parameters.items()
                for operand in operands[number : number + 1]
            )
            return read + self._written(inner, each)
        if each.operation.endswith("-start"):  # (to, from, ...) of a copy; (from, to, ...) of a slice
            source, target = self._arrays(each, computation)[0], each.results[0]
            if each.operation == "slice-start" and len(each.results) > 1:
                target = each.results[1]
            return (target._replace(on_chip=False).bytes if source.bytes else 0) + target.bytes
        result = sum(array.bytes for array in each.results)
        if each.operation in _READS_A_PART:
            return result + sum(
                each.results[0]._replace(on_chip=False).bytes
                for array in self._arrays(each, computation)[:1]
                if array.bytes
            )
        if each.operation in ("dynamic-update-slice", "scatter"):
            update = self._arrays(each, computation)[1 if each.operation == "dynamic-update-slice" else 2]
            return update.bytes + (update._replace(on_chip=False).bytes if result else 0)
        return result + sum(array.bytes for array in self._arrays(each, computation))

    def _read(self, computation: _Computation, name: str, operand: Array) -> int:
        """Bytes that a fusion reads of a parameter: all, but where all its users take a part."""
        if not operand.bytes:
            return 0
        read = 0
        for user, place in computation.users(name):
            if user.operation in _READS_A_PART and place == 0:
                read += user.results[0]._replace(on_chip=False).bytes
            elif user.operation == "dynamic-update-slice" and place == 0:
                continue  # it is overwritten in place
            elif user.operation == "fusion":
                inner = self.computations[user.called("calls")]
                read += self._read(inner, inner.parameters[place].name, operand)
            else:
                return operand.bytes
        return read

    def _written(self, inner: _Computation, fusion: Instruction) -> int:
        """Bytes that a fusion writes: its results, but of one that is updated in place, the update."""
        root = inner.root
        parts = (
            [inner.source(name) for name in root.operands] if root.operation == "tuple" else [inner.source(root.name)]
        )
        written = 0
        for part, result in zip(parts, fusion.results, strict=False):
            if part.operation == "dynamic-update-slice" and result.bytes:
                written += inner.by_name[part.operands[1]].results[0]._replace(on_chip=False).bytes
            else:
                written += result.bytes
        return written


def _convolution_flops(each: Instruction, left: Array, right: Array) -> float:
    """2 x the multiplications that meet an element of the input, as a padded or dilated one may not."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    assert labels is not None
    window = re.search(r"window=\{([^}]*)\}", each.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}

    def per_axis(name: str, default: str) -> list[str]:
        return settings[name].split("x") if name in settings else [default] * len(spatial)

    out, spatial = each.results[0].shape, sorted(label for label in labels[1] if label.isdigit())
    pairs = 1
    for number, axis in enumerate(spatial):
        taken = int(per_axis("stride", "1")[number])
        spread = int(per_axis("lhs_dilate", "1")[number])
        apart = int(per_axis("rhs_dilate", "1")[number])
        before = int(per_axis("pad", "0_0")[number].split("_")[0])
        inside = (left.shape[labels[1].index(axis)] - 1) * spread + 1
        pairs *= sum(
            0 <= (place := start * taken + tap * apart - before) < inside and place % spread == 0
            for start in range(out[labels[3].index(axis)])
            for tap in range(right.shape[labels[2].index(axis)])
        )
    batch, features = out[labels[3].index("b")], out[labels[3].index("f")]
    return 2.0 * pairs * batch * features * right.shape[labels[2].index("i")]


def _computations(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    name, instructions = "", []
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, instructions = head[1], []
        elif line.startswith("}") and name:
            yield name, instructions
            name = ""
        elif name and (found := _instruction(line)):
            instructions.append(found)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].lstrip()
    operation, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside, attributes = rest[:end], rest[end + 1 :]
    valued = operation in ("constant", "parameter")
    # XLA writes the operands' names, their types before them or not, with % or without.
    names = (
        each.split()[-1].lstrip("%")
        for each in re.sub(r"\{[^}]*\}|\[[^\]]*\]|/\*.*?\*/", "", inside).split(",")
        if each.strip()
    )
    operands = (inside,) if valued else tuple(names)
    return Instruction(head[2], tuple(_arrays(shapes)), operation.strip(), operands, attributes, bool(head[1]))


def _closing(text: str) -> int:
    """Where the bracket is closed with which a text begins."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    raise ValueError(f"a bracket stays open: {text[:80]}")


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
