"""Render a benchmark report for a terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..runtime.console import align_columns

Report = Mapping[str, Any]
CaseResult = Mapping[str, Any]

HEADINGS = ("", "time", "time / ours", "of the matmul rate", "peak memory", "first use")

METHOD = (
    "Weights are RANDOM, in the published layout. At the published size they are as costly as real ones. Times are",
    "medians. Each side is a warm process of its own. The sides take turns, and a ratio is the median over",
    "neighbouring turns: above 1, ours is faster. The matmul rate is that of the faster of jnp.dot and torch.mm,",
    "measured between the turns. A percentage of it counts the FLOPs of the model's matrix products without padding.",
    "First use is the time of the first run, including compilation.",
)


def render_table(report: Report) -> str:
    """Render a report for a terminal, with a block of lines for each case."""
    lines = _machine(report)
    for title, cases in _group_by_title(report["cases"]):
        lines += ["", title]
        for case in cases:
            rows = [[f"  {case['case']}, {case['precision']}", *HEADINGS[1:]], *_rows(case)]
            lines += align_columns(rows)
            lines += [f"    {remark}" for remark in _remarks(case)]
    return "\n".join(lines)


def render_markdown(report: Report, figure: str | None) -> str:
    """Render a report as a Markdown page with a table for each title.

    Args:
        report: the report, as `benchmark` returns it.
        figure: the name of the figure's file beside the page. None if ours ran alone.
    """
    lines = [
        "# Benchmarks",
        "",
        "Made by `speech-emotion-jax benchmark`. Each run with the same `--output` rewrites it. Measured on:",
        "",
        *(f"- {part}" for part in _machine(report)),
        "",
        *METHOD,
    ]
    if figure is not None:
        lines += ["", f"![how many times faster ours is]({figure})"]
    for title, cases in _group_by_title(report["cases"]):
        lines += ["", f"## {title}", "", _line(HEADINGS), _line(["---", *["---:"] * (len(HEADINGS) - 1)])]
        remarks = []
        for case in cases:
            lines.append(_line([f"**{case['case']}, {case['precision']}**", *[""] * (len(HEADINGS) - 1)]))
            lines += [_line([cell.strip() for cell in row]) for row in _rows(case)]
            remarks += [f"- {case['case']}, {case['precision']}: {'; '.join(_remarks(case))}."]
        lines += ["", *remarks]
    return "\n".join(lines) + "\n"


def _group_by_title(cases: Sequence[CaseResult]) -> Iterator[tuple[str, list[CaseResult]]]:
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


def _rows(case: CaseResult) -> list[list[str]]:
    """Return a row for each side: its name and the values below HEADINGS."""
    rows = []
    for name, side in case["sides"].items():
        ratio = case["ratios"].get(name)
        rows.append(
            [
                f"    {name}",
                format_seconds(side["median"]),
                "" if ratio is None else f"{ratio['median']:.2f}",
                "" if side["of_matmul_rate"] is None else f"{side['of_matmul_rate']:.0%}",
                f"{side['peak_bytes'] / 1e9:.2f} GB",
                format_seconds(side["first"]),
            ]
        )
    return rows


def _remarks(case: CaseResult) -> list[str]:
    remarks = [f"{case['pairs']} turn{'s' * (case['pairs'] != 1)} of each"]
    if rate := case["matmul_rate"]:
        low, middle, high = (rate[name] / 1e9 for name in ("low", "median", "high"))
        medians = ", ".join(f"{name} {each / 1e9:,.0f}" for name, each in rate["medians"].items())
        remarks.append(f"matmul {middle:,.0f} GFLOP/s ({low:,.0f} to {high:,.0f}; {medians})")
    for name, ratio in case["ratios"].items():
        pairs = ratio["pairs"]
        if len(pairs) > 1:
            remarks.append(
                f"{name}: ratios {min(pairs):.2f} to {max(pairs):.2f}, of all turns together {ratio['total']:.2f}"
            )
    for name, difference in (case["differences"] or {}).items():
        if isinstance(difference, int):
            remarks.append(f"{name}: {difference} of the texts of all turns differ from ours")
        else:
            remarks.append(f"{name}: results differ from ours by at most {difference:.1e}")
    return remarks + ([case["note"]] if case["note"] else [])


def format_seconds(value: float) -> str:
    """Format a time in seconds with about three digits."""
    return f"{1000 * value:.0f} ms" if value < 0.1 else f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
