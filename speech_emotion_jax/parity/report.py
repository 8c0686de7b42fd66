"""Report a parity check as JSON, as a table for a terminal and as an HTML page with a figure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.console import align_columns
from ..runtime.pages import render_page
from ..runtime.storage import Folder
from .difference import Budget, Difference, budget
from .figure import draw_parity
from .verdict import StageVerdict, Verdict, worst_rows

SCHEMA = 1
JSON, PAGE, FIGURE = "parity.json", "parity.html", "parity.png"
HEAD = ("stage", "largest", "mean", "gain", "1 - cosine", "alone", "of budget", "by", "")


@dataclass(frozen=True)
class ParityResult:
    """The result of a parity check.

    Attributes:
        checkpoint: what the user called the checkpoint.
        original: what it was compared with.
        precision: our precision.
        device: the kind of our device.
        versions: the versions of the packages.
        recorded_with: the versions that made the golden. Empty without one.
        tensor_count: the number of tensors and constants that were compared.
        differing: the names of those that differ.
        verdicts: the verdict on each recording.
    """

    checkpoint: str
    original: str
    precision: str
    device: str
    versions: Mapping[str, str]
    recorded_with: Mapping[str, str]
    tensor_count: int
    differing: Sequence[str]
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        """Whether all tensors are identical and all stages are within their budgets."""
        return self.first_failure is None

    @property
    def first_failure(self) -> str | None:
        """Where the two sides first differ too much, in words. None if they nowhere do."""
        if self.differing:
            return f"tensors: {self.differing[0]} is the first of {len(self.differing)} that differ"
        for row, verdict in worst_rows(self.verdicts):
            if not row.passed:
                return f"{row.stage} of {verdict.name}{row.remark and f': {row.remark}'}"
        return None


def parity_as_dict(result: ParityResult) -> dict[str, Any]:
    """Return the report as JSON data.

    The format is {"schema", "checkpoint", "original", "precision", "device", "versions", "recorded_with", "passed",
    "first_bad", "worst": {"recording", "text", "stage", "used", "by"}, "tensors": {"count", "differing"},
    "recordings": [{"name", "text", "stages": [{"stage", "largest", "mean", "gain", "cosine", "size", "budget":
    {"largest", "mean", "gain"}, "alone": {the same} or null, "used", "by", "good", "remark"}]}]}. A difference is null
    if it cannot be computed, for example because the shapes differ. A bound is null if there is none.
    """
    row, verdict = _worst(result)
    return {
        "schema": SCHEMA,
        "checkpoint": result.checkpoint,
        "original": result.original,
        "precision": result.precision,
        "device": result.device,
        "versions": dict(result.versions),
        "recorded_with": dict(result.recorded_with),
        "passed": result.passed,
        "first_bad": result.first_failure,
        "worst": {
            "recording": verdict.recording,
            "text": verdict.text,
            "stage": row.stage,
            "used": _finite(row.budget_used),
            "by": row.criterion,
        },
        "tensors": {"count": result.tensor_count, "differing": list(result.differing)},
        "recordings": [
            {
                "name": verdict.recording,
                "text": verdict.text,
                "stages": [_row_as_data(row, result.precision) for row in verdict.rows],
            }
            for verdict in result.verdicts
        ],
    }


def _row_as_data(row: StageVerdict, precision: str) -> dict[str, Any]:
    alone = None
    if row.alone is not None:
        alone = _numbers(row.alone) | {"budget": _numbers(budget(row.stage, precision, alone=True))}
    return {
        "stage": row.stage,
        **(dict.fromkeys(Difference._fields) if row.difference is None else _numbers(row.difference)),
        "budget": _numbers(budget(row.stage, precision)),
        "alone": alone,
        "used": _finite(row.budget_used),
        "by": row.criterion,
        "good": row.passed,
        "remark": row.remark,
    }


def render_parity(result: ParityResult) -> str:
    """Render the report for a terminal, with one row for each stage: the recording that uses most of its budget."""
    rows = [_cells(row) for row, _ in worst_rows(result.verdicts)]
    return "\n".join([*_facts(result), "", *align_columns([HEAD, *rows]), "", _conclusion(result)])


def _facts(result: ParityResult) -> list[str]:
    facts = [
        f"{result.checkpoint}, {result.precision}, on {result.device}",
        f"against {result.original}",
        _list_versions(result.versions),
    ]
    if result.recorded_with:
        facts.append(f"recorded with {_list_versions(result.recorded_with)}")
        if changed := [
            f"{name} was {before} and is {result.versions[name]}"
            for name, before in result.recorded_with.items()
            if result.versions.get(name, before) != before
        ]:
            facts.append(
                f"versions differ: {', '.join(changed)}; they may cause the differences below, so record a new golden"
            )
    same = result.tensor_count - len(result.differing)
    return [
        *facts,
        f"tensors and constants: {same} of {result.tensor_count} are identical",
    ]


def _list_versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in packages.items())


def _conclusion(result: ParityResult) -> str:
    row, verdict = _worst(result)
    of = f" of {len(result.verdicts)}" if len(result.verdicts) > 1 else ""
    used = f"{_format_fraction(row.budget_used)} of its budget{row.criterion and f' ({row.criterion})'}"
    worst = f"worst{of}: {verdict.name} at {row.stage}, {used}"
    return f"PASSED; {worst}" if result.passed else f"FAILED at {result.first_failure}; {worst}"


def _worst(result: ParityResult) -> tuple[StageVerdict, Verdict]:
    verdict = max(result.verdicts, key=lambda verdict: verdict.worst.budget_used)
    return verdict.worst, verdict


def _cells(row: StageVerdict) -> list[str]:
    verdict = "ok" if row.passed else f"BAD{row.remark and f', {row.remark}'}"
    if row.difference is None:
        return [row.stage, "", "", "", "", "", "", "", verdict]
    largest, mean, gain, cosine, _ = row.difference
    numbers = [f"{largest:.1e}", f"{mean:.1e}", f"{gain:+.1e}", f"{1 - cosine:.0e}"]
    alone = "" if row.alone is None else f"{row.alone.largest:.1e}"
    return [row.stage, *numbers, alone, _format_fraction(row.budget_used), row.criterion, verdict]


def _format_fraction(used: float) -> str:
    if not math.isfinite(used):
        return "infinite"
    return f"{used:.0%}" if used < 100 else "over 10000%"


def _numbers(values: Difference | Budget) -> dict[str, float | int | None]:
    return {name: _finite(value) for name, value in values._asdict().items()}


def _finite(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None


def write_report(folder: Folder, result: ParityResult) -> None:
    """Write the report as JSON, as an HTML page and as a figure.

    Args:
        folder: the folder, which is made if it does not exist.
        result: the result of the check.
    """
    figure = draw_parity(result.verdicts, result.precision)
    content = render_page(
        __name__.rpartition(".")[0],
        title=f"Parity of {result.checkpoint}",
        passed=result.passed,
        conclusion=_conclusion(result),
        facts=_facts(result),
        figure=base64.b64encode(figure).decode(),
        head=HEAD,
        tables=[
            {
                "title": verdict.name,
                "rows": [{"cells": _cells(row), "good": row.passed} for row in verdict.rows],
            }
            for verdict in result.verdicts
        ],
    )
    folder.make()
    folder.write(FIGURE, figure)
    folder.write(PAGE, content)
    folder.write(JSON, (json.dumps(parity_as_dict(result), indent=1, ensure_ascii=False) + "\n").encode())
