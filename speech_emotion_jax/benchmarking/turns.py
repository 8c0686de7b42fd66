"""Let the sides of a plan take turns, and evaluate the turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import numpy as np

from ..runtime.progress import progress
from .plans import Case, CommandSpec, Plan
from .sides import FreshProcess, Worker

Sides = Mapping[str, Worker | FreshProcess]
CaseResult = dict[str, Any]

MATMULS = {"our_side": "jnp.dot", "torch_side": "torch.mm"}  # {module of a side: its matrix product}


def measure_plan(plan: Plan, pairs: int) -> Iterator[CaseResult]:
    """Start the sides of a plan, let them take turns, and yield the result of each case.

    Args:
        plan: the sides and cases.
        pairs: how many turns each side takes.

    Yields:
        A dict for each case, which goes into the JSON report as it is:

        task, title, case, precision, pairs: what was run.
        note: why a side is missing or what the times include, or null.
        flops: the median FLOPs of the model's matrix products in a turn, or null if they are not known.
        matmul_rate: {"median", "low", "high", "medians": {function: its median}} in FLOP/s. This is the rate of the
            machine's matrix product, measured between the turns with the faster library. Null if no side stays
            loaded between turns.
        sides: {name: {"seconds": [one for each turn], "median", "first": the seconds of the first run,
            "of_matmul_rate": the median of flops / seconds / rate, or null, "peak_bytes"}}.
        ratios: {other side: {"pairs": [its seconds / ours], "median", "total": the ratio of all turns together}}.
        differences: {other side: the largest difference of a result, divided by the largest value; for texts, the
            number that differ}. Null if the results are not expected to agree.

    Raises:
        InvalidInput: if a side fails.
    """
    with ExitStack() as stack:
        sides: dict[str, Worker | FreshProcess] = {}
        with progress(f"{plan.title}, {plan.precision}: loading"):
            for name, each in plan.sides.items():
                sides[name] = (
                    FreshProcess(each.arguments)
                    if isinstance(each, CommandSpec)
                    else Worker(each.module, each.task, each.settings, each.python)
                )
                stack.enter_context(closing(sides[name]))
            for side in sides.values():
                if isinstance(side, Worker):
                    side.wait_until_loaded()
        for case in plan.cases:
            taking = {name: sides[name] for name in case.sides}
            with progress(f"{plan.title}, {plan.precision}: {case.name}", pairs * len(taking)) as advance:
                measured = _take_turns(case, taking, plan.precision, pairs, advance)
            yield {
                "task": plan.task,
                "title": plan.title,
                "case": case.name,
                "precision": plan.precision,
                "pairs": pairs,
                "note": case.note,
                **measured,
            }


def _take_turns(case: Case, sides: Sides, precision: str, pairs: int, advance: Callable[[float], None]) -> CaseResult:
    ours, *others = sides
    resident = {name: side for name, side in sides.items() if isinstance(side, Worker)}
    for side in resident.values():
        side.ask("forget")
    first = {name: side.run(case.workloads[0])["seconds"] for name, side in sides.items()}
    for workload in case.workloads[1:]:
        sides[ours].run(workload)  # compiles the programs of other shapes
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Any]] = {name: [] for name in sides}
    libraries = {MATMULS[side.module]: side for side in resident.values() if side.module in MATMULS}
    sampled: list[dict[str, float]] = []
    for pair in range(pairs):
        workload = case.workloads[pair % len(case.workloads)]
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            answer = sides[name].run(workload)
            seconds[name].append(answer["seconds"])
            results[name].append(answer["result"])
            advance(1)
        if libraries:
            sampled.append({name: each.ask("rate", precision=precision)["rate"] for name, each in libraries.items()})
    rates = [max(each.values()) for each in sampled]
    flops = None if case.flops is None else [case.flops[pair % len(case.flops)] for pair in range(pairs)]
    return {
        "flops": flops and median(flops),
        "matmul_rate": {
            "median": median(rates),
            "low": min(rates),
            "high": max(rates),
            "medians": {name: median(each[name] for each in sampled) for name in libraries},
        }
        if rates
        else None,
        "sides": {
            name: {
                "seconds": seconds[name],
                "median": median(seconds[name]),
                "first": first[name],
                "of_matmul_rate": _matmul_fraction(flops, seconds[name], rates),
                "peak_bytes": side.ask("peak")["bytes"] if isinstance(side, Worker) else side.peak_bytes,
            }
            for name, side in sides.items()
        },
        "ratios": {name: _ratio(seconds[name], seconds[ours]) for name in others},
        "differences": {name: _difference(results[ours], results[name]) for name in others} if case.compared else None,
    }


def _matmul_fraction(flops: Sequence[float] | None, seconds: Sequence[float], rates: Sequence[float]) -> float | None:
    if flops is None or not rates:
        return None
    return median(count / time / rate for count, time, rate in zip(flops, seconds, rates, strict=True))


def _ratio(other: Sequence[float], ours: Sequence[float]) -> CaseResult:
    pairs = [their / own for their, own in zip(other, ours, strict=True)]
    return {"pairs": pairs, "median": median(pairs), "total": sum(other) / sum(ours)}


def _difference(ours: list[Any], other: list[Any]) -> float | int:
    own, their = _flat(ours), _flat(other)
    if isinstance(own[0], str):
        return sum(a != b for a, b in zip(own, their, strict=True))
    a, b = np.array(own), np.array(their)
    return float(np.abs(a - b).max() / np.abs(b).max())


def _flat(nested: Any) -> list[Any]:
    return [each for part in nested for each in _flat(part)] if isinstance(nested, list) else [nested]
