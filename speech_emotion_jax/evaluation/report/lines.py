"""Summarise a bulk run in a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runtime.plots import shorten
from ..results import EvaluationRun
from .words import HEADLINE_METRICS, NO_VALUE


def summary(run: EvaluationRun, metrics: Mapping[str, Any] | None, throughput: Mapping[str, int | float]) -> str:
    """Summarise the clips, the metrics and the speed of a run for a terminal."""
    errors = int((~run.scored).sum())
    lines = [f"Clips     {len(run.table):,}: {len(run.table) - errors:,} scored, {errors:,} with an error"]
    if metrics is not None:
        lines[0] += f", {sum(truth is None for truth in run.truth):,} without a label"
        for key, name in HEADLINE_METRICS.items():
            ends = metrics["intervals"].get(key)
            words = "" if ends is None else f"  (95 %: {100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
            lines.append(f"{name:<10}{100 * metrics[key]:5.1f} %{words}")
        names = [shorten(label, 24) for label in metrics["per_class"]]
        wide = max(len("label"), *map(len, names))
        lines += ["", f"{'label':<{wide}}  precision  recall     F1     clips"]
        for name, each in zip(names, metrics["per_class"].values(), strict=True):
            precision, recall, f1 = (100 * each[key] for key in ("precision", "recall", "f1"))
            lines.append(f"{name:<{wide}}  {precision:9.1f}  {recall:6.1f}  {f1:5.1f}  {each['support']:8,}")
        lines.append("")
    elif run.no_truth is not None:
        lines.append(run.no_truth)
    lines.append(f"Speed     {', '.join(f'{value} {name}' for name, value in speed(throughput))}".replace("\xa0", " "))
    return "\n".join(lines)


def speed(throughput: Mapping[str, int | float]) -> list[tuple[str, str]]:
    """Return (quantity, value) of the rates per second and host: of audio if there is any, else of clips."""
    seconds, compiling = throughput["seconds"], throughput["compile_seconds"]
    of, key = ("audio-seconds", "audio_seconds") if throughput["audio_seconds"] else ("clips", "clips")
    per = "per second" if throughput.get("hosts", 1) == 1 else "per second and host"
    with_compilation, without = (
        f"{throughput[key] / each:,.1f}" if each > 0 else NO_VALUE for each in (seconds, seconds - compiling)
    )
    return [(f"{of} {per}", with_compilation), ("without compilation", without)]
