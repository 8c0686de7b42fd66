"""A report of benchmarks as words: for a terminal, and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..runtime.console import aligned

Report = Mapping[str, Any]
Case = Mapping[str, Any]

HEADINGS = ("", "time", "time / ours", "of the matmul rate", "peak memory", "first use")

METHOD = (
    "Weights are RANDOM, in the published layout: those of the published size cost what real ones cost. Times are",
    "medians. Each side is a process of its own that is warm, the sides take turns, and a ratio is the median of",
    "those of neighbouring turns: above 1, ours is faster. The machine's matmul rate is that of the better one of",
    "jnp.dot and torch.mm, sampled between the turns; the share of it counts the FLOPs of the model's own matrix",
    "products, without padding. First use is what the first turn took, compilation included.",
)


def table(report: Report) -> str:
    """For a terminal: a block of lines a case."""
    lines = _machine(report)
    for title, cases in _titled(report["cases"]):
        lines += ["", title]
        for case in cases:
            rows = [[f"  {case['case']}, {case['precision']}", *HEADINGS[1:]], *_rows(case)]
            lines += aligned(rows)
            lines += [f"    {remark}" for remark in _remarks(case)]
    return "\n".join(lines)


def markdown(report: Report, figure: str | None) -> str:
    """A page with a table a title and the figure, which lies beside it; None where ours ran alone."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `speech-emotion-jax benchmark`, and written anew by each run with the same `--output`, on:",
        "",
        *(f"- {part}" for part in _machine(report)),
        "",
        *METHOD,
    ]
    if figure is not None:
        lines += ["", f"![how many times faster ours is]({figure})"]
    for title, cases in _titled(report["cases"]):
        lines += ["", f"## {title}", "", _line(HEADINGS), _line(["---", *["---:"] * (len(HEADINGS) - 1)])]
        remarks = []
        for case in cases:
            lines.append(_line([f"**{case['case']}, {case['precision']}**", *[""] * (len(HEADINGS) - 1)]))
            lines += [_line([cell.strip() for cell in row]) for row in _rows(case)]
            remarks += [f"- {case['case']}, {case['precision']}: {'; '.join(_remarks(case))}."]
        lines += ["", *remarks]
    return "\n".join(lines) + "\n"


def _titled(cases: Sequence[Case]) -> Iterator[tuple[str, list[Case]]]:
    for title, group in groupby(cases, lambda case: case["title"]):
        yield title, list(group)


def _machine(report: Report) -> list[str]:
    machine, versions = report["machine"], report["versions"]
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB",
        f"{machine['system']}, Python {machine['python']}",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        *(f"{name}={value}" for name, value in report["switches"].items()),
    ]


def _rows(case: Case) -> list[list[str]]:
    """A row a side: its name and what stands below HEADINGS."""
    rows = []
    for name, side in case["sides"].items():
        ratio = case["ratios"].get(name)
        rows.append(
            [
                f"    {name}",
                seconds(side["median"]),
                "" if ratio is None else f"{ratio['median']:.2f}",
                "" if side["of_matmul_rate"] is None else f"{side['of_matmul_rate']:.0%}",
                f"{side['peak_bytes'] / 1e9:.2f} GB",
                seconds(side["first"]),
            ]
        )
    return rows


def _remarks(case: Case) -> list[str]:
    remarks = [f"{case['pairs']} turn{'s' * (case['pairs'] != 1)} of each"]
    if rate := case["matmul_rate"]:
        low, middle, high = (rate[name] / 1e9 for name in ("low", "median", "high"))
        medians = ", ".join(f"{name} {each / 1e9:,.0f}" for name, each in rate["medians"].items())
        remarks.append(f"matmul {middle:,.0f} GFLOP/s ({low:,.0f} to {high:,.0f}; {medians})")
    for name, ratio in case["ratios"].items():
        pairs = ratio["pairs"]
        if len(pairs) > 1:
            remarks.append(
                f"{name}: ratios from {min(pairs):.2f} to {max(pairs):.2f}, of all turns together {ratio['total']:.2f}"
            )
    for name, difference in (case["differences"] or {}).items():
        if isinstance(difference, int):
            remarks.append(f"{name}: of the texts of all turns, {difference} are others than ours")
        else:
            remarks.append(f"{name}: results differ from ours by {difference:.1e} at most")
    return remarks + ([case["note"]] if case["note"] else [])


def seconds(value: float) -> str:
    """To three figures or so."""
    return f"{1000 * value:.0f} ms" if value < 0.1 else f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
