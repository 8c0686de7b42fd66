"""Write the report of a bulk run: one self-contained HTML page, and its figures as PNG files.

File names, labels and texts come from the user, so the page escapes them. The same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.pages import render_page
from ...runtime.plots import shorten
from ...runtime.storage import Folder
from ..results import EvaluationRun
from .clips import ReportClips
from .figures import by_group, by_length, metric_figures, prediction_figures
from .lines import speed
from .tables import error_summary, frequent_confusions, surest_mistakes
from .words import HEADLINE_METRICS, count_of, duration, is_or_are, percent, plural

PAGE = "report.html"
FEW = 30  # labels with fewer clips get a warning
FEW_GROUPS = 20  # with fewer groups intervals are too narrow, see `metrics`


@dataclass(frozen=True)
class Card:
    """A headline number. `low`, `high` and `baseline` are fractions like `value`, or None."""

    name: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    remark: str


def write_report(
    folder: Folder,
    run: EvaluationRun,
    metrics: Mapping[str, Any] | None,
    *,
    group_by: str | None,
    throughput: Mapping[str, int | float],
    provenance: Mapping[str, Any],
) -> None:
    """Write the figures as PNG files and then report.html.

    Args:
        folder: The folder of the run.
        run: The run.
        metrics: The result of `measure` for the scored clips with a label. None: there are none, and the report shows
            the predicted labels and their scores.
        group_by: The column whose groups are compared.
        throughput: "clips", "audio_seconds", "seconds" and "compile_seconds" of all hosts together (compilation is part
            of "seconds"), "hosts" and "devices".
        provenance: Everything that is needed to repeat the run, shown as a table.

    Raises:
        InvalidInput: There is no column `group_by`.
    """
    clips = ReportClips.of(run, metrics is not None)
    figures = []
    if len(clips.rows):
        figures = prediction_figures(clips) if metrics is None else metric_figures(metrics)
        figures += [figure for figure in (by_length(clips), by_group(clips, group_by)) if figure is not None]
    content = render_page(
        __name__.rpartition(".")[0],
        percent=percent,
        title=shorten(run.name.rstrip("/").rpartition("/")[2] or run.name, 80),
        subtitle=_subtitle(run),
        cards=[] if metrics is None else _cards(metrics),
        interval=None if metrics is None else _interval_words(metrics, group_by),
        facts=_facts(clips, metrics, throughput),
        notices=_notices(clips, metrics, group_by),
        figures=figures,
        pairs=frequent_confusions(clips),
        worst=surest_mistakes(clips),
        errors=error_summary(run),
        throughput=_throughput(throughput),
        provenance=list(_flat(provenance)),
    )
    for figure in figures:
        folder.write(f"{figure.name}.png", figure.png)
    folder.write(PAGE, content)


def _subtitle(run: EvaluationRun) -> str:
    """Name the checkpoint and the clips, as far as the settings tell."""
    settings = run.record.get("settings") or {}
    parts = [str(settings[name]) for name in ("model", "mode", "language", "split") if settings.get(name)]
    return " · ".join(shorten(part, 80) for part in parts)


def _cards(metrics: Mapping[str, Any]) -> list[Card]:
    """Return the headline metrics, each with the baseline of always predicting the most frequent label."""
    label, share = _majority(metrics)
    count = len(metrics["truth_labels"])
    baselines = {"accuracy": share, "uar": 1 / count, "macro_f1": 2 * share / (1 + share) / count}
    cards = []
    for key, name in HEADLINE_METRICS.items():
        low, high = metrics["intervals"].get(key) or (None, None)
        cards.append(Card(name, metrics[key], low, high, baselines[key], f"always “{shorten(label)}”"))
    return cards


def _majority(metrics: Mapping[str, Any]) -> tuple[str, float]:
    """Return the most frequent true label and its fraction of the clips."""
    supports = {label: each["support"] for label, each in metrics["per_class"].items()}
    label = max(supports, key=supports.__getitem__)
    return label, supports[label] / metrics["clips"]


def _interval_words(metrics: Mapping[str, Any], group_by: str | None) -> str:
    """Explain the intervals."""
    if not metrics["intervals"]:
        return "There are too few clips or groups for intervals."
    if metrics["accuracy"] in (0, 1):
        trials = f"groups of “{shorten(group_by)}”" if group_by else "clips"
        return (
            f"Intervals are Wilson's 95 % intervals of {metrics['groups'] or metrics['clips']:,} independent {trials}."
        )
    if group_by is None:
        return "Intervals are 95 % bootstrap intervals; clips were drawn one by one."
    groups = f"whole groups of “{shorten(group_by)}” ({metrics['groups']:,})"
    return f"Intervals are 95 % bootstrap intervals; {groups} were drawn."


def _facts(
    clips: ReportClips, metrics: Mapping[str, Any] | None, throughput: Mapping[str, int | float]
) -> list[tuple[str, str]]:
    """Return (name, value) of the small numbers under the headline."""
    run = clips.run
    errors = int((~run.scored).sum())
    total = len(run.table)
    facts = [
        (plural("clip", total), f"{total:,}"),
        ("scored", f"{total - errors:,}"),
        (plural("error", errors), f"{errors:,}"),
    ]
    if metrics is not None:
        facts.append(("unlabelled", f"{sum(truth is None for truth in run.truth):,}"))
        facts += [("weighted F1", percent(metrics["weighted_f1"])), ("calibration error", percent(metrics["ece"]))]
        if metrics["log_loss"] is not None:
            facts.append(("log-loss", f"{metrics['log_loss']:.3f}"))
    elif len(clips.rows):
        facts.append(("mean top score", percent(float(clips.score.mean()))))
    if throughput["audio_seconds"]:
        facts.append(("of audio", duration(throughput["audio_seconds"])))
    return facts


def _notices(clips: ReportClips, metrics: Mapping[str, Any] | None, group_by: str | None) -> list[str]:
    """Return warnings about figures that may mislead."""
    run, notices = clips.run, []
    errors = int((~run.scored).sum())
    if errors:
        part = percent(errors / len(run.table))
        notices.append(
            f"{count_of(errors, 'clip')} ({part}) could not be scored, and {is_or_are(errors)} in no figure."
        )
    strange = int((run.scored & ~np.isfinite(run.probabilities).all(axis=1)).sum())
    if strange:
        notices.append(
            f"{count_of(strange, 'clip')} got scores that are not numbers, and {is_or_are(strange)} in no figure."
        )
    truncated = run.table.column("truncated").cast("bool").fill_null(False).to_numpy().sum()
    if truncated:
        notices.append(
            f"{count_of(truncated, 'clip')} {is_or_are(truncated)} longer than the checkpoint accepts, in sound or"
            " in text; only the beginning was scored."
        )
    if metrics is None:
        return [*notices, f"{run.no_truth}."] if run.no_truth is not None else notices
    few = {label: each["support"] for label, each in metrics["per_class"].items() if 0 < each["support"] < FEW}
    if few:
        names = ", ".join(f"{shorten(label)} ({clips})" for label, clips in few.items())
        notices.append(
            f"Fewer than {FEW} clips: {names}. Metrics of such a label, and UAR and macro-F1, are uncertain."
        )
    absent = [label for label in metrics["labels"] if not metrics["per_class"][label]["support"]]
    if absent:
        names = ", ".join(map(shorten, absent))
        notices.append(f"No scored clip has the label {names}; UAR and macro-F1 leave it out.")
    label, share = _majority(metrics)
    if metrics["accuracy"] < share:
        notices.append(f"Answering “{shorten(label)}” every time would be right more often ({percent(share)}).")
    if group_by is None and metrics["intervals"]:
        notices.append(
            "The intervals take clips as independent. If speakers or videos have several clips, the true intervals are"
            " wider: name the column with --group-by."
        )
    if group_by is not None and metrics["groups"] < FEW_GROUPS:
        notices.append(
            f"There are only {count_of(metrics['groups'], 'group')} of “{shorten(group_by)}”: the intervals are too"
            " narrow."
        )
    return notices


def _throughput(throughput: Mapping[str, int | float]) -> list[tuple[str, str]]:
    rows = speed(throughput)
    if throughput["audio_seconds"]:
        rows.append(("of audio", duration(throughput["audio_seconds"])))
    rows += [
        (plural("clip", throughput["clips"]), f"{throughput['clips']:,}"),
        ("of work, all hosts added", duration(throughput["seconds"])),
        ("of it compiling", duration(throughput["compile_seconds"])),
    ]
    return rows + [(plural(name, throughput[f"{name}s"]), f"{throughput[f'{name}s']:,}") for name in ("host", "device")]


def _flat(provenance: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value) of nested values."""
    for name, value in provenance.items():
        name = f"{within}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            yield shorten(name, 200), shorten(", ".join(map(str, value)), 10_000) or "none"
        else:
            yield shorten(name, 200), "none" if value in (None, "", {}) else shorten(str(value), 10_000)
