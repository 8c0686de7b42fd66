"""Count what a compiled program does on one device: FLOPs, bytes to and from memory, collectives.

XLA's own `cost_analysis` counts the body of a loop once, and knows nothing of hand-written kernels. Here a body counts
as often as it runs, and a kernel by a function that knows its work. Arrays count with the padding of their tiles;
arrays in a core's own memory count nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .hlo_flops import flops
from .hlo_loops import trip_count
from .hlo_text import Array, Computation, Instruction, Program, parse_program
from .hlo_traffic import bytes_moved

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

# These name, order or wait for arrays, and don't touch their content.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency"),
}
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "MoveToHost", "MoveToDevice")


class Kernel(NamedTuple):
    """The FLOPs and the bytes to and from memory of one call of a hand-written kernel."""

    flops: int
    bytes: int


# Returns the work of a kernel's call, given its operands and its results.
KernelCost = Callable[[list[Array], list[Array]], Kernel]


@dataclass
class Costs:
    """What a program does on one device.

    Attributes:
        flops: floating-point operations of products.
        bytes: bytes to and from memory.
        kinds: {operation: bytes}, which add up to `bytes`.
        collectives: {kind: number of collectives}.
        received: {kind: bytes that the collectives give to this device}.
        largest_received: bytes of the largest result of a collective.
        unknown_loops: loops whose trip count the text does not tell; they count as one turn.
    """

    flops: float = 0.0
    bytes: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    largest_received: int = 0
    unknown_loops: int = 0

    def add(self, other: Costs, times: int = 1) -> None:
        """Add what another program does, `times` over."""
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

    def add_bytes(self, kind: str, count: int) -> None:
        """Add bytes to and from memory of an operation."""
        self.bytes += count
        self.kinds[kind] += count


def costs(text: str, kernels: Mapping[str, KernelCost] | None = None) -> Costs:
    """Count what a compiled program does on one device.

    Args:
        text: the program's HLO, `compiled.as_text()`.
        kernels: {name: cost} of hand-written kernels; a call is one of them if its text contains the name.
    """
    program = parse_program(text)
    return _Counter(program, kernels or {}).costs(program.entry)


class _Counter:
    def __init__(self, program: Program, kernels: Mapping[str, KernelCost]):
        self.program = program
        self.kernels = kernels
        self.known: dict[str, Costs] = {}

    def costs(self, name: str) -> Costs:
        """Count what one run of a computation does."""
        if name not in self.known:
            total = Costs()
            computation = self.program.computations[name]
            for each in computation.instructions:
                self._count(each, computation, total)
            self.known[name] = total
        return self.known[name]

    def _count(self, each: Instruction, computation: Computation, total: Costs) -> None:
        operation = each.operation.removesuffix("-start")
        if each.operation.endswith(("-done", "-update")) or operation in _FREE:
            return
        if operation == "while":
            turns = trip_count(each, computation, self.program)
            total.unknown_loops += turns is None
            total.add(self.costs(each.called("body")), turns or 1)
        elif operation == "conditional":
            listed = each.attributes.partition("branch_computations={")[2].partition("}")[0]
            branches = re.findall(r"%([\w.\-]+)", listed)
            branches = branches or [each.called("true_computation"), each.called("false_computation")]
            # Which branch runs is unknown: the most expensive one counts.
            total.add(max((self.costs(branch) for branch in branches), key=lambda branch: (branch.flops, branch.bytes)))
        elif operation in ("call", "async"):
            total.add(self.costs(each.called("calls" if "calls=" in each.attributes else "to_apply")))
        elif operation in COLLECTIVES:
            self._count_collective(each, operation, computation, total)
        elif operation == "custom-call":
            self._count_call(each, computation, total)
        else:
            total.flops += flops(each, computation, self.program)
            total.add_bytes(self._kind(each), bytes_moved(each, computation, self.program))

    def _count_collective(self, each: Instruction, operation: str, computation: Computation, total: Costs) -> None:
        # The results of an asynchronous start are (operand, result, ...).
        pair = each.operation.endswith("-start") and len(each.results) > 1
        results = each.results[1:2] if pair else each.results
        received = sum(array.padded_bytes for array in results)
        total.collectives[operation] += 1
        total.received[operation] += received
        total.largest_received = max(total.largest_received, received)
        total.add_bytes(operation, sum(array.bytes for array in (*results, *computation.operand_arrays(each))))

    def _count_call(self, each: Instruction, computation: Computation, total: Costs) -> None:
        operands = computation.operand_arrays(each)
        for name, kernel in self.kernels.items():
            if name in each.attributes or name in each.name:
                work = kernel(operands, list(each.results))
                total.flops += work.flops
                total.add_bytes(name, work.bytes)
                return
        if not any(f'"{name}"' in each.attributes for name in _FREE_CALLS):
            total.add_bytes("custom-call", sum(array.bytes for array in (*operands, *each.results)))

    def _kind(self, each: Instruction) -> str:
        """Return the key of `Costs.kinds` for an instruction: of a fusion, "products" or the operation of its root."""
        if each.operation != "fusion":
            return each.operation.removesuffix("-start")
        inner = self.program.called(each, "calls")
        if flops(each, inner, self.program):
            return "products"
        return f"fusion of {inner.source(inner.root.name).operation if inner.root.operands else inner.root.operation}"
