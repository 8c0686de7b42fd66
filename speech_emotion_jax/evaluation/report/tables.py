"""The tables of a report: frequent confusions, confident mistakes, and errors."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Int

from ...runtime.plots import shorten
from ..results import EvaluationRun
from .clips import ReportClips
from .words import NO_VALUE, percent

WORST, PAIRS, ERRORS, KINDS = 20, 10, 50, 8  # largest numbers of rows of the tables
LETTERS = 160  # largest number of characters of a clip's text


def frequent_confusions(clips: ReportClips) -> list[dict[str, Any]]:
    """Return the most frequent confusions."""
    if not clips.labelled:
        return []
    count = len(clips.run.labels)
    wrong = np.flatnonzero(~clips.right)
    cells = clips.true[wrong] * count + clips.top[wrong]
    often = np.bincount(cells, minlength=count**2)
    sums = np.bincount(cells, clips.score[wrong], minlength=count**2)
    totals = np.bincount(clips.true, minlength=count)
    labels = [shorten(label, 40) for label in clips.run.labels]
    return [
        {
            "truth": labels[cell // count],
            "said": labels[cell % count],
            "clips": f"{often[cell]:,}",
            "share": float(often[cell] / totals[cell // count]),
            "score": percent(float(sums[cell] / often[cell])),
        }
        for cell in np.argsort(-often, kind="stable")[:PAIRS].tolist()
        if often[cell]
    ]


def surest_mistakes(clips: ReportClips) -> list[dict[str, str]]:
    """Return the wrongly labelled clips with the highest scores."""
    if not clips.labelled:
        return []
    wrong = np.flatnonzero(~clips.right)
    wrong = wrong[np.argsort(-clips.score[wrong], kind="stable")[:WORST]]
    labels = [shorten(label, 40) for label in clips.run.labels]
    ids = _cells(clips.run, clips.run.record["columns"]["id"], clips.rows[wrong])
    texts = _cells(clips.run, "text", clips.rows[wrong])
    return [
        {
            "id": shorten(clip, 80),
            "truth": labels[clips.true[number]],
            "said": labels[clips.top[number]],
            "score": percent(float(clips.score[number])),
            "truth_score": percent(float(clips.scores[number, clips.true[number]])),
            "duration": f"{seconds:.1f} s" if np.isfinite(seconds := clips.duration[number]) else NO_VALUE,
            "text": shorten(text, LETTERS),
        }
        for number, clip, text in zip(wrong.tolist(), ids, texts, strict=True)
    ]


def error_summary(run: EvaluationRun) -> dict[str, Any] | None:
    """Count the errors of each kind and list the first ones. Returns None if there are no errors."""
    rows = np.flatnonzero(~run.scored)
    if not len(rows):
        return None
    columns = run.record["columns"]
    messages = _cells(run, "error", rows)
    ids = _cells(run, columns["id"], rows)
    names = _cells(run, columns.get("filename", columns["id"]), rows)
    kinds = Counter(_kind(message, name) for message, name in zip(messages, names, strict=True)).most_common()
    return {
        "count": len(rows),
        "kinds": [(f"{count:,}", kind) for kind, count in kinds[:KINDS]],
        "others": sum(count for _, count in kinds[KINDS:]),
        "first": [
            (shorten(clip, 80), shorten(message, 300))
            for clip, message in zip(ids[:ERRORS], messages[:ERRORS], strict=True)
        ],
    }


def _kind(message: str, name: str) -> str:
    """Return an error without what is specific to one clip: its file name and all numbers."""
    at = message.find(name) if name else -1
    if at >= 0:
        start = max(message.rfind(" ", 0, at), message.rfind("'", 0, at), message.rfind('"', 0, at)) + 1
        message = message[:start] + "…" + message[at + len(name) :]
    message = shorten(message, LETTERS)
    return re.sub(r"\d+", "#", message)


def _cells(run: EvaluationRun, name: str, rows: Int[np.ndarray, " some"]) -> list[str]:
    """Return the cells of a column in some rows; "" for empty cells."""
    return ["" if cell is None else str(cell) for cell in run.table.column(name).take(rows).to_pylist()]
