"""Find how often a loop of a compiled program runs."""

from __future__ import annotations

import re

from .hlo_text import Computation, Instruction, Program


def trip_count(loop: Instruction, computation: Computation, program: Program) -> int | None:
    """Return how often the body of a loop runs, or None if the text does not tell.

    XLA states the number, or a counter runs from one constant to another. The step of the counter may be 2: the
    compiler of TPUs unrolls a loop by two if that hides the time of a transfer.

    Args:
        loop: an instruction "while".
        computation: the computation that contains the loop.
        program: the program that contains the computation.
    """
    if stated := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes):
        return int(stated[1])
    condition = program.called(loop, "condition")
    comparison = condition.root
    sides = [condition.source(name) for name in comparison.operands[:2]]
    if comparison.operation == "fusion":  # a fusion of the comparison alone
        comparison = program.called(comparison, "calls").root
    if comparison.operation != "compare" or "direction=LT" not in comparison.attributes or len(sides) != 2:
        return None
    counter, limit = sides
    index = re.search(r"\bindex=(\d+)", counter.attributes)
    if limit.operation != "constant" or index is None:
        return None
    body = program.called(loop, "body")
    step = _constants(body, body.root.operands[int(index[1])], program)
    start = _constants(computation, computation.source(loop.operands[0]).operands[int(index[1])], program)
    return -(-(int(limit.operands[0]) - sum(start)) // (sum(step) or 1))


def _constants(computation: Computation, name: str, program: Program) -> list[int]:
    """Return the constants that are summed up in a value: a constant, a copy of one, or a counter plus constants."""
    each = computation.source(name)
    if each.operation == "constant":
        return [int(each.operands[0])]
    if each.operation in ("add", "copy"):
        return [number for operand in each.operands for number in _constants(computation, operand, program)]
    if each.operation == "fusion":
        inner = program.called(each, "calls")
        outside = [number for operand in each.operands for number in _constants(computation, operand, program)]
        return outside + _constants(inner, inner.root.name, program)
    return []
