"""Sides that take turns, and what their turns say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import numpy as np

from ..runtime.progress import progress
from .plans import Case, Command, Plan
from .sides import NewProcess, Side

Sides = Mapping[str, Side | NewProcess]
Result = dict[str, Any]

MATMULS = {"our_side": "jnp.dot", "torch_side": "torch.mm"}  # of the modules that have one


def measure(plan: Plan, pairs: int) -> Iterator[Result]:
    """Start the sides of a plan, let them take turns, and give what each case's turns say:

    task, title, case, precision, pairs
    note                why a side is missing, or what the times are of; or null
    flops               of the model's matrix products in a turn, the median of the turns; or null
    matmul_rate         {"median", "low", "high", "medians": {library's function: its own}} FLOP/s of the machine's own
                        matrix product, which is the better library's, sampled between the turns; or null where no side
                        is there between them
    sides               {name: {"seconds": [of each turn], "median", "first": the first use,
                        "of_matmul_rate": flops / seconds / rate of the same pair, median, or null; "peak_bytes"}}
    ratios              {another side: {"pairs": [its time / ours], "median", "total": of all turns together}}
    differences         {another side: the largest difference of a result, of the largest value; of texts, how many
                        differ}; or null where they can't be alike
    """
    with ExitStack() as stack:
        sides: dict[str, Side | NewProcess] = {}
        with progress(f"{plan.title}, {plan.precision}: loading"):
            for name, each in plan.contenders.items():
                sides[name] = (
                    NewProcess(each.arguments)
                    if isinstance(each, Command)
                    else Side(each.module, each.task, each.settings, each.python)
                )
                stack.enter_context(closing(sides[name]))
            for side in sides.values():
                if isinstance(side, Side):
                    side.loaded()
        for case in plan.cases:
            taking = {name: sides[name] for name in case.sides}
            with progress(f"{plan.title}, {plan.precision}: {case.name}", pairs * len(taking)) as advance:
                found = _take_turns(case, taking, plan.precision, pairs, advance)
            yield {
                "task": plan.task,
                "title": plan.title,
                "case": case.name,
                "precision": plan.precision,
                "pairs": pairs,
                "note": case.note,
                **found,
            }


def _take_turns(case: Case, sides: Sides, precision: str, pairs: int, advance: Callable[[float], None]) -> Result:
    ours, *others = sides
    resident = {name: side for name, side in sides.items() if isinstance(side, Side)}
    for side in resident.values():
        side.ask("forget")
    first = {name: side.run(case.requests[0])["seconds"] for name, side in sides.items()}
    for request in case.requests[1:]:
        sides[ours].run(request)  # what is of another shape is compiled
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Any]] = {name: [] for name in sides}
    libraries = {MATMULS[side.module]: side for side in resident.values() if side.module in MATMULS}
    sampled: list[dict[str, float]] = []
    for pair in range(pairs):
        request = case.requests[pair % len(case.requests)]
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            answer = sides[name].run(request)
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
                "of_matmul_rate": _share(flops, seconds[name], rates),
                "peak_bytes": side.ask("peak")["bytes"] if isinstance(side, Side) else side.peak_bytes,
            }
            for name, side in sides.items()
        },
        "ratios": {name: _ratio(seconds[name], seconds[ours]) for name in others},
        "differences": {name: _difference(results[ours], results[name]) for name in others} if case.compared else None,
    }


def _share(flops: Sequence[float] | None, seconds: Sequence[float], rates: Sequence[float]) -> float | None:
    if flops is None or not rates:
        return None
    return median(count / time / rate for count, time, rate in zip(flops, seconds, rates, strict=True))


def _ratio(other: Sequence[float], ours: Sequence[float]) -> Result:
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
