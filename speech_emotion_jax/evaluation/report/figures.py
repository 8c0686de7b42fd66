"""The figures of a report, each with a caption and a table of its numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime import plots
from ...runtime.plots import Slice, shorten
from ..metrics import wilson_interval
from .clips import ReportClips
from .words import NO_VALUE, count_of, percent

DASH = "\N{EN DASH}"  # from DASH to
BINS = 6  # largest number of duration bins
MIN_CLIPS_PER_BIN = 25  # if the run has enough clips
GROUPS = 30  # groups that are shown individually


@dataclass(frozen=True)
class Plot:
    """A figure with its caption, its alternative text, and a table of its numbers."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def source(self) -> str:
        """The figure as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def metric_figures(metrics: Mapping[str, Any]) -> list[Plot]:
    """Draw the confusion matrix, the metrics per label and the reliability diagram."""
    labels = metrics["labels"]
    names = [shorten(label) for label in labels]
    counts = np.array(metrics["confusion_matrix"]["counts"])
    totals = counts.sum(axis=1)
    said = []
    for number in np.flatnonzero(totals):
        words = f"{names[number]} {percent(counts[number, number] / totals[number])} right"
        others = np.where(np.arange(len(labels)) == number, 0, counts[number])
        if others.any():
            other = others.argmax()
            words += f", else most often {names[other]} ({percent(others[other] / totals[number])})"
        said.append(words)
    found = "; ".join(said[:12]) + ("; …" if len(said) > 12 else "")
    confusion = Plot(
        "confusion",
        "Confusion matrix",
        "Each row shows which labels the clips of one true label were given.",
        f"Confusion matrix of {count_of(metrics['clips'], 'clip')}. {found}.",
        plots.confusion(labels, counts),
        ["true \\ predicted", *names],
        [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, counts.tolist(), strict=True)],
    )

    each = metrics["per_class"]
    present = metrics["truth_labels"]
    best, worst = (pick(present, key=lambda label: each[label]["f1"]) for pick in (max, min))
    caption = f"Best by F1: {shorten(best)} ({percent(each[best]['f1'])})."
    if len(present) > 1:
        caption += f" Worst: {shorten(worst)} ({percent(each[worst]['f1'])})."
    kinds = ("recall", "precision", "f1")
    values = {("F1" if kind == "f1" else kind): np.array([each[label][kind] for label in present]) for kind in kinds}
    per_class = Plot(
        "per_class",
        "Per label",
        caption,
        "Recall, precision and F1 of each label. "
        + "; ".join(f"{shorten(label)} F1 {percent(each[label]['f1'])}" for label in present[:12])
        + ".",
        plots.per_class(present, values),
        ["label", "precision", "recall", "F1", "clips", "predicted"],
        [
            [
                shorten(label),
                *(percent(row[kind]) for kind in ("precision", "recall", "f1")),
                f"{row['support']:,}",
                f"{row['predicted']:,}",
            ]
            for label, row in each.items()
        ],
    )
    return [confusion, per_class, _reliability(metrics)]


def _reliability(metrics: Mapping[str, Any]) -> Plot:
    bins = metrics["reliability"]
    edges, counts = np.array(bins["edges"]), np.array(bins["count"])
    confidence, accuracy = (np.array(bins[key], float) for key in ("confidence", "accuracy"))
    full = np.flatnonzero(counts)
    gap = float((confidence - accuracy)[full] @ counts[full] / counts.sum())
    ends = metrics["intervals"].get("ece")
    if ends is None:
        words = "There are too few clips to tell."
    elif not ends[0]:
        words = "Chance alone would explain the difference between scores and accuracy."
    else:
        sure = "higher than the accuracy: over" if gap > 0 else "lower than the accuracy: under"
        words = f"On the whole, the scores are {100 * abs(gap):.1f} points {sure}-confident."
    error = f"Expected calibration error {percent(metrics['ece'])}"
    error += "" if ends is None else f" (95 %: {100 * ends[0]:.1f} to {percent(ends[1])})"
    rows = [
        [
            f"{100 * edges[each]:.0f} to {100 * edges[each + 1]:.0f} %",
            f"{counts[each]:,}",
            percent(confidence[each]),
            percent(accuracy[each]),
        ]
        for each in full
    ]
    return Plot(
        "reliability",
        "Reliability",
        f"{words} {error}. Below the dashed line, the checkpoint is overconfident.",
        f"Reliability diagram, accuracy against score. {error}. {words}",
        plots.reliability(edges, counts, confidence, accuracy, wilson_interval(accuracy, counts)),
        ["score", "clips", "mean score", "accuracy"],
        rows,
    )


def prediction_figures(clips: ReportClips) -> list[Plot]:
    """Draw the predicted labels and their scores, for a run without labels."""
    labels = clips.run.labels
    counts = np.bincount(clips.top, minlength=len(labels))
    total = len(clips.rows)
    percents = [f"{shorten(label)} {percent(count / total)}" for label, count in zip(labels, counts, strict=True)]
    sums = np.bincount(clips.top, clips.score, minlength=len(labels))
    low, middle, high = np.percentile(clips.score, (25, 50, 75))
    half = f"Half of the scores lie between {percent(low)} and {percent(high)}, the median is {percent(middle)}."
    edges = np.linspace(0, 1, 11)
    tenths = np.histogram(clips.score, edges)[0]
    return [
        Plot(
            "predicted",
            "Predicted labels",
            f"Most often: {shorten(labels[counts.argmax()])}, {percent(counts.max() / total)} of the clips.",
            f"Predicted labels of {count_of(total, 'clip')}: {', '.join(percents[:12])}.",
            plots.predicted(labels, counts),
            ["label", "clips", "percent", "mean score"],
            [
                [shorten(label), f"{count:,}", percent(count / total), percent(mean / count) if count else NO_VALUE]
                for label, count, mean in zip(labels, counts, sums, strict=True)
            ],
        ),
        Plot(
            "scores",
            "Top scores",
            half,
            f"Histogram of the top labels' scores. {half}",
            plots.scores(clips.score),
            ["score", "clips"],
            [
                [f"{100 * edge:.0f} to {100 * edge + 10:.0f} %", f"{count:,}"]
                for edge, count in zip(edges[:-1], tenths, strict=True)
            ],
        ),
    ]


def by_length(clips: ReportClips) -> Plot | None:
    """Draw the accuracy over bins of duration with equal counts, as far as equal durations allow.

    Returns None if no clip has a duration.
    """
    timed = np.flatnonzero(np.isfinite(clips.duration))
    if not len(timed):
        return None
    seconds = clips.duration[timed]
    bin_count = int(np.clip(len(timed) // MIN_CLIPS_PER_BIN, 1, BINS))
    edges = np.unique(np.quantile(seconds, np.linspace(0, 1, bin_count + 1)))
    digits = 1 if len(edges) < 2 or np.diff(edges).min() >= 0.1 else 2
    bins = np.clip(np.searchsorted(edges, seconds, side="right") - 1, 0, max(len(edges) - 2, 0))
    slices = []
    for number in np.unique(bins):
        low, high = edges[number], edges[min(number + 1, len(edges) - 1)]
        slices.append(clips.slice(f"{low:.{digits}f}{DASH}{high:.{digits}f}", timed[bins == number]))
    found = "; ".join(f"{each.name} s {percent(each.value)}" for each in slices)
    quantity = _quantity(clips)
    return Plot(
        "by_length",
        f"{quantity} by length",
        f"Shortest clips {percent(slices[0].value)}, longest {percent(slices[-1].value)}. {_bar_words(clips)}",
        f"{quantity} by duration: {found}.",
        plots.by_length(slices, quantity),
        ["seconds", "clips", quantity.lower(), *(["UAR"] if clips.labelled else [])],
        [_slice_row(each) + ([] if each.uar is None else [percent(each.uar)]) for each in slices],
    )


def by_group(clips: ReportClips, group_by: str | None) -> Plot | None:
    """Draw the accuracy of the groups with the most clips, from best to worst, and of all other groups together.

    Returns None if no column of groups is named.
    """
    if group_by is None:
        return None
    column = clips.run.column(group_by)
    values = np.array(["" if column[row] is None else str(column[row]) for row in clips.rows], object)
    names, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    large = np.argsort(-counts, kind="stable")[:GROUPS]
    slices = [clips.slice(str(names[number]) or "(none)", np.flatnonzero(codes == number)) for number in large]
    slices.sort(key=lambda each: (-each.value, -each.clips))
    found = f"Best {shorten(slices[0].name)} ({percent(slices[0].value)}), worst {shorten(slices[-1].name)}"
    found += f" ({percent(slices[-1].value)})"
    if len(names) > GROUPS:
        others = np.flatnonzero(~np.isin(codes, large))
        slices.append(clips.slice(f"{len(names) - GROUPS:,} others", others))
        found += f" of the {GROUPS} largest of {len(names):,} groups"
    overall = float((clips.right if clips.labelled else clips.score).mean())
    quantity = _quantity(clips)
    return Plot(
        "by_group",
        f"{quantity} by {shorten(group_by)}",
        f"{found}. {_bar_words(clips)}",
        f"{quantity} by {shorten(group_by)}. {found}; all clips {percent(overall)}.",
        plots.by_group(slices, quantity, overall),
        [shorten(group_by), "clips", quantity.lower()],
        [_slice_row(each) for each in slices],
    )


def _quantity(clips: ReportClips) -> str:
    return "Accuracy" if clips.labelled else "Mean top score"


def _bar_words(clips: ReportClips) -> str:
    if clips.labelled:
        return "Bars are Wilson's 95 % intervals, which take clips as independent."
    return "Bars span the middle half of the scores."


def _slice_row(each: Slice) -> list[str]:
    ends = f"({100 * each.low:.1f} to {100 * each.high:.1f})"
    return [shorten(each.name, 40), f"{each.clips:,}", f"{percent(each.value)} {ends}"]
