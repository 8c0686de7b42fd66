"""What a bulk run found, to look at: one self-contained page with its figures, the figures as PNGs, and a few lines
for a terminal.

File names, labels and texts are the user's: the page escapes them. The same run gives the same bytes.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from . import plots
from .pages import page
from .plots import Slice, shown
from .runs import Run
from .runtime.storage import Folder

PAGE = "report.html"
FEW = 30  # clips of a label below which its figures say little
FEW_GROUPS = 20  # below which intervals by groups are too narrow; see `metrics`
BINS = 6  # of durations, at most
LEAST = 25  # clips in a bin of durations, where there are so many
GROUPS = 30  # that are shown one by one
WORST, PAIRS, ERRORS, KINDS = 20, 10, 50, 8  # rows of the tables
DASH = NONE = "\N{EN DASH}"  # from DASH to; or no value
LETTERS = 160  # of a clip's text
AVERAGES = {"accuracy": "Accuracy", "uar": "UAR", "macro_f1": "Macro-F1"}


@dataclass(frozen=True)
class Card:
    """A number of the headline. `low`, `high` and `baseline` are fractions like `value`, None where there is none."""

    name: str
    value: float
    low: float | None
    high: float | None
    baseline: float | None
    remark: str


@dataclass(frozen=True)
class Plot:
    """A figure with what it says in words, and its numbers as a table."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def source(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Clips:
    """The clips that figures are made of: those with finite scores and, in a run with metrics, with a label.

    Labels are numbers, by their place in the run's; `true` is -1 where a clip has none.
    """

    run: Run
    rows: Int[np.ndarray, " clips"]  # in the run's table
    scores: Float[np.ndarray, "clips labels"]
    true: Int[np.ndarray, " clips"]
    labelled: bool

    @classmethod
    def of(cls, run: Run, labelled: bool) -> Clips:
        place = {label: number for number, label in enumerate(run.labels)}
        true = np.array([place.get(label, -1) if label else -1 for label in run.truth], int)
        good = run.scored & np.isfinite(run.probabilities).all(axis=1)
        rows = np.flatnonzero(good & (true >= 0) if labelled else good)
        return cls(run, rows, run.probabilities[rows], true[rows], labelled)

    @cached_property
    def top(self) -> Int[np.ndarray, " clips"]:
        return self.scores.argmax(axis=1)

    @cached_property
    def score(self) -> Float[np.ndarray, " clips"]:
        return self.scores.max(axis=1)

    @cached_property
    def right(self) -> Bool[np.ndarray, " clips"]:
        return self.top == self.true

    @cached_property
    def duration(self) -> Float[np.ndarray, " clips"]:
        """Seconds; NaN where there is no recording."""
        return self.run.table.column("duration").cast("float64").to_numpy()[self.rows]

    def slice(self, name: str, which: Int[np.ndarray, " some"]) -> Slice:
        """The accuracy of some clips with its 95 % interval or, without truth, their mean score and its quartiles."""
        if not self.labelled:
            low, high = np.percentile(self.score[which], (25, 75))
            return Slice(name, len(which), float(self.score[which].mean()), float(low), float(high))
        right, count = self.right[which], len(self.run.labels)
        support = np.bincount(self.true[which], minlength=count)
        recall = np.bincount(self.true[which], right, minlength=count)[support > 0] / support[support > 0]
        low, high = wilson(right.mean(keepdims=True), np.array([len(which)]))[:, 0]
        return Slice(name, len(which), float(right.mean()), float(low), float(high), float(recall.mean()))


def write_report(
    folder: Folder,
    run: Run,
    metrics: Mapping[str, Any] | None,
    *,
    group_by: str | None,
    throughput: Mapping[str, int | float],
    provenance: Mapping[str, Any],
) -> None:
    """Write the figures' PNGs and, last, report.html.

    `metrics` is what `measure` gave for the run's scored clips that have a label; None where there are none, and the
    report shows what was predicted, and how surely. `group_by` names a column whose groups are shown side by side.
    `throughput` has "clips", "audio_seconds", "seconds" and "compile_seconds" (of all hosts together, compilation in
    the seconds), "hosts" and "devices". `provenance` is shown as a table: all that is needed to repeat the run.
    Raises InvalidInput where there is no such column.
    """
    clips = Clips.of(run, metrics is not None)
    figures = []
    if len(clips.rows):
        figures = _outcome(clips) if metrics is None else _measured(metrics)
        figures += [figure for figure in (_by_length(clips), _by_group(clips, group_by)) if figure is not None]
    content = page(
        "report.html.jinja",
        percent=_percent,
        title=shown(run.name.rstrip("/").rpartition("/")[2] or run.name, 80),
        subtitle=_subtitle(run),
        cards=[] if metrics is None else _cards(metrics),
        interval=None if metrics is None else _interval_words(metrics, group_by),
        facts=_facts(clips, metrics, throughput),
        notices=_notices(clips, metrics, group_by),
        figures=figures,
        pairs=_pairs(clips),
        worst=_worst(clips),
        errors=_errors(run),
        throughput=_throughput(throughput),
        provenance=list(_flat(provenance)),
    )
    for figure in figures:
        folder.write(f"{figure.name}.png", figure.png)
    folder.write(PAGE, content)


def summary(run: Run, metrics: Mapping[str, Any] | None, throughput: Mapping[str, int | float]) -> str:
    """A few lines for a terminal: how many clips, how right, how fast."""
    errors = int((~run.scored).sum())
    lines = [f"Clips     {len(run.table):,}: {len(run.table) - errors:,} scored, {errors:,} with an error"]
    if metrics is not None:
        lines[0] += f", {sum(truth is None for truth in run.truth):,} without a label"
        for key, name in AVERAGES.items():
            ends = metrics["intervals"].get(key)
            words = "" if ends is None else f"  (95 %: {100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
            lines.append(f"{name:<10}{100 * metrics[key]:5.1f} %{words}")
        names = [shown(label, 24) for label in metrics["per_class"]]
        wide = max(len("label"), *map(len, names))
        lines += ["", f"{'label':<{wide}}  precision  recall     F1     clips"]
        for name, each in zip(names, metrics["per_class"].values(), strict=True):
            precision, recall, f1 = (100 * each[key] for key in ("precision", "recall", "f1"))
            lines.append(f"{name:<{wide}}  {precision:9.1f}  {recall:6.1f}  {f1:5.1f}  {each['support']:8,}")
        lines.append("")
    lines.append(f"Speed     {', '.join(f'{value} {name}' for name, value in _speed(throughput))}".replace("\xa0", " "))
    return "\n".join(lines)


def wilson(share: Float[np.ndarray, " any"], clips: Int[np.ndarray, " any"]) -> Float[np.ndarray, "2 any"]:
    """Wilson's 95 % interval of shares of so many clips, taken as independent. NaN without clips."""
    z = 1.959964
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (share + z**2 / (2 * clips)) / (1 + z**2 / clips)
        reach = z / (1 + z**2 / clips) * np.sqrt(share * (1 - share) / clips + z**2 / (4 * clips**2))
    return np.stack([np.maximum(middle - reach, 0), np.minimum(middle + reach, 1)])


# The headline


def _subtitle(run: Run) -> str:
    """What was scored by what, of the settings that say so."""
    settings = run.record.get("settings") or {}
    parts = [str(settings[name]) for name in ("model", "mode", "language", "split") if settings.get(name)]
    return " · ".join(shown(part, 80) for part in parts)


def _cards(metrics: Mapping[str, Any]) -> list[Card]:
    """The averages, each beside what answering the most frequent label always would reach."""
    label, share = _majority(metrics)
    count = len(metrics["truth_labels"])
    baselines = {"accuracy": share, "uar": 1 / count, "macro_f1": 2 * share / (1 + share) / count}
    cards = []
    for key, name in AVERAGES.items():
        low, high = metrics["intervals"].get(key) or (None, None)
        cards.append(Card(name, metrics[key], low, high, baselines[key], f"always “{shown(label)}”"))
    return cards


def _majority(metrics: Mapping[str, Any]) -> tuple[str, float]:
    supports = {label: each["support"] for label, each in metrics["per_class"].items()}
    label = max(supports, key=supports.__getitem__)
    return label, supports[label] / metrics["clips"]


def _interval_words(metrics: Mapping[str, Any], group_by: str | None) -> str:
    if not metrics["intervals"]:
        return "There is nothing to draw intervals from."
    if group_by is None:
        return "Intervals are 95 % bootstrap intervals; clips were drawn one by one."
    groups = f"whole groups of “{shown(group_by)}” ({metrics['groups']:,})"
    return f"Intervals are 95 % bootstrap intervals; {groups} were drawn."


def _facts(
    clips: Clips, metrics: Mapping[str, Any] | None, throughput: Mapping[str, int | float]
) -> list[tuple[str, str]]:
    """(name, value) of the small numbers under the headline."""
    run = clips.run
    errors = int((~run.scored).sum())
    total = len(run.table)
    facts = [
        (_plural("clip", total), f"{total:,}"),
        ("scored", f"{total - errors:,}"),
        (_plural("error", errors), f"{errors:,}"),
    ]
    if metrics is not None:
        facts.append(("unlabelled", f"{sum(truth is None for truth in run.truth):,}"))
        facts += [("weighted F1", _percent(metrics["weighted_f1"])), ("calibration error", _percent(metrics["ece"]))]
        if metrics["log_loss"] is not None:
            facts.append(("log-loss", f"{metrics['log_loss']:.3f}"))
    elif len(clips.rows):
        facts.append(("mean top score", _percent(float(clips.score.mean()))))
    if throughput["audio_seconds"]:
        facts.append(("of audio", _time(throughput["audio_seconds"])))
    return facts


def _notices(clips: Clips, metrics: Mapping[str, Any] | None, group_by: str | None) -> list[str]:
    """What may mislead a reader of the figures."""
    run, notices = clips.run, []
    errors = int((~run.scored).sum())
    if errors:
        part = _percent(errors / len(run.table))
        notices.append(f"{_count(errors, 'clip')} ({part}) could not be scored, and {_be(errors)} in no figure.")
    strange = int((run.scored & ~np.isfinite(run.probabilities).all(axis=1)).sum())
    if strange:
        notices.append(f"{_count(strange, 'clip')} got scores that are no numbers, and {_be(strange)} in no figure.")
    truncated = run.table.column("truncated").cast("bool").fill_null(False).to_numpy().sum()
    if truncated:
        notices.append(
            f"{_count(truncated, 'clip')} {_be(truncated)} longer than the checkpoint takes, in sound or in text: only"
            " the beginning was scored."
        )
    if metrics is None:
        return notices
    few = {label: each["support"] for label, each in metrics["per_class"].items() if 0 < each["support"] < FEW}
    if few:
        names = ", ".join(f"{shown(label)} ({clips})" for label, clips in few.items())
        notices.append(
            f"Fewer than {FEW} clips: {names}. What is said of such a label, and UAR and macro-F1, is unsure."
        )
    absent = [label for label in metrics["labels"] if not metrics["per_class"][label]["support"]]
    if absent:
        notices.append(f"No scored clip has the label {', '.join(map(shown, absent))}; UAR and macro-F1 leave it out.")
    label, share = _majority(metrics)
    if metrics["accuracy"] < share:
        notices.append(f"Answering “{shown(label)}” always would be right more often ({_percent(share)}).")
    if group_by is None and metrics["intervals"]:
        notices.append(
            "The intervals take clips as independent. Where speakers or videos have several clips, the true ones are"
            " wider: name the column with --group-by."
        )
    if group_by is not None and metrics["groups"] < FEW_GROUPS:
        notices.append(
            f"There are only {_count(metrics['groups'], 'group')} of “{shown(group_by)}”: the intervals are too narrow."
        )
    return notices


# Figures


def _measured(metrics: Mapping[str, Any]) -> list[Plot]:
    """Confusion matrix, per-class bars and reliability diagram."""
    labels = metrics["labels"]
    names = [shown(label) for label in labels]
    counts = np.array(metrics["confusion_matrix"]["counts"])
    totals = counts.sum(axis=1)
    said = []
    for number in np.flatnonzero(totals):
        words = f"{names[number]} {_percent(counts[number, number] / totals[number])} right"
        others = np.where(np.arange(len(labels)) == number, 0, counts[number])
        if others.any():
            other = others.argmax()
            words += f", else most often {names[other]} ({_percent(others[other] / totals[number])})"
        said.append(words)
    found = "; ".join(said[:12]) + ("; …" if len(said) > 12 else "")
    confusion = Plot(
        "confusion",
        "Confusion matrix",
        "Each row is a true label: where its clips went.",
        f"Confusion matrix of {_count(metrics['clips'], 'clip')}. {found}.",
        plots.confusion(labels, counts),
        ["true \\ predicted", *names],
        [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, counts.tolist(), strict=True)],
    )

    each = metrics["per_class"]
    present = metrics["truth_labels"]
    best, worst = (pick(present, key=lambda label: each[label]["f1"]) for pick in (max, min))
    caption = f"Best by F1: {shown(best)} ({_percent(each[best]['f1'])})."
    if len(present) > 1:
        caption += f" Worst: {shown(worst)} ({_percent(each[worst]['f1'])})."
    kinds = ("recall", "precision", "f1")
    values = {("F1" if kind == "f1" else kind): np.array([each[label][kind] for label in present]) for kind in kinds}
    per_class = Plot(
        "per_class",
        "Per label",
        caption,
        "Recall, precision and F1 of each label. "
        + "; ".join(f"{shown(label)} F1 {_percent(each[label]['f1'])}" for label in present[:12])
        + ".",
        plots.per_class(present, values),
        ["label", "precision", "recall", "F1", "clips", "predicted"],
        [
            [
                shown(label),
                *(_percent(row[kind]) for kind in ("precision", "recall", "f1")),
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
        words = "The scores are off by no more than chance would give with so many clips."
    else:
        sure = "higher than the accuracy: over" if gap > 0 else "lower than the accuracy: under"
        words = f"On the whole, the scores are {100 * abs(gap):.1f} points {sure}-confident."
    error = f"Expected calibration error {_percent(metrics['ece'])}"
    error += "" if ends is None else f" (95 %: {100 * ends[0]:.1f} to {_percent(ends[1])})"
    rows = [
        [
            f"{100 * edges[each]:.0f} to {100 * edges[each + 1]:.0f} %",
            f"{counts[each]:,}",
            _percent(confidence[each]),
            _percent(accuracy[each]),
        ]
        for each in full
    ]
    return Plot(
        "reliability",
        "Reliability",
        f"{words} {error}. Below the dashed line, the checkpoint is surer than it is right.",
        f"Reliability diagram, accuracy against score. {error}. {words}",
        plots.reliability(edges, counts, confidence, accuracy, wilson(accuracy, counts)),
        ["score", "clips", "mean score", "accuracy"],
        rows,
    )


def _outcome(clips: Clips) -> list[Plot]:
    """What was predicted, and how surely, where the truth is not known."""
    labels = clips.run.labels
    counts = np.bincount(clips.top, minlength=len(labels))
    total = len(clips.rows)
    shares = [f"{shown(label)} {_percent(count / total)}" for label, count in zip(labels, counts, strict=True)]
    sums = np.bincount(clips.top, clips.score, minlength=len(labels))
    low, middle, high = np.percentile(clips.score, (25, 50, 75))
    half = f"Half of the scores lie between {_percent(low)} and {_percent(high)}, the median is {_percent(middle)}."
    edges = np.linspace(0, 1, 11)
    tenths = np.histogram(clips.score, edges)[0]
    return [
        Plot(
            "predicted",
            "Predicted labels",
            f"Most often: {shown(labels[counts.argmax()])}, {_percent(counts.max() / total)} of the clips.",
            f"Predicted labels of {_count(total, 'clip')}: {', '.join(shares[:12])}.",
            plots.predicted(labels, counts),
            ["label", "clips", "share", "mean score"],
            [
                [shown(label), f"{count:,}", _percent(count / total), _percent(mean / count) if count else NONE]
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


def _by_length(clips: Clips) -> Plot | None:
    """Bins of equal count, as far as equal durations allow; None where no clip has a duration."""
    timed = np.flatnonzero(np.isfinite(clips.duration))
    if not len(timed):
        return None
    seconds = clips.duration[timed]
    edges = np.unique(np.quantile(seconds, np.linspace(0, 1, int(np.clip(len(timed) // LEAST, 1, BINS)) + 1)))
    digits = 1 if len(edges) < 2 or np.diff(edges).min() >= 0.1 else 2
    bins = np.clip(np.searchsorted(edges, seconds, side="right") - 1, 0, max(len(edges) - 2, 0))
    slices = []
    for number in np.unique(bins):
        low, high = edges[number], edges[min(number + 1, len(edges) - 1)]
        slices.append(clips.slice(f"{low:.{digits}f}{DASH}{high:.{digits}f}", timed[bins == number]))
    found = "; ".join(f"{each.name} s {_percent(each.value)}" for each in slices)
    quantity = _quantity(clips)
    return Plot(
        "by_length",
        f"{quantity} by length",
        f"Shortest clips {_percent(slices[0].value)}, longest {_percent(slices[-1].value)}. {_bar_words(clips)}",
        f"{quantity} by duration: {found}.",
        plots.by_length(slices, quantity),
        ["seconds", "clips", quantity.lower(), *(["UAR"] if clips.labelled else [])],
        [_slice_row(each) + ([] if each.uar is None else [_percent(each.uar)]) for each in slices],
    )


def _by_group(clips: Clips, group_by: str | None) -> Plot | None:
    """The groups with the most clips, from the best to the worst, and the others as one."""
    if group_by is None:
        return None
    column = clips.run.column(group_by)
    values = np.array(["" if column[row] is None else str(column[row]) for row in clips.rows], object)
    names, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    large = np.argsort(-counts, kind="stable")[:GROUPS]
    slices = [clips.slice(str(names[number]) or "(none)", np.flatnonzero(codes == number)) for number in large]
    slices.sort(key=lambda each: (-each.value, -each.clips))
    found = f"Best {shown(slices[0].name)} ({_percent(slices[0].value)}), worst {shown(slices[-1].name)}"
    found += f" ({_percent(slices[-1].value)})"
    if len(names) > GROUPS:
        others = np.flatnonzero(~np.isin(codes, large))
        slices.append(clips.slice(f"{len(names) - GROUPS:,} others", others))
        found += f" of the {GROUPS} largest of {len(names):,} groups"
    overall = float((clips.right if clips.labelled else clips.score).mean())
    quantity = _quantity(clips)
    return Plot(
        "by_group",
        f"{quantity} by {shown(group_by)}",
        f"{found}. {_bar_words(clips)}",
        f"{quantity} by {shown(group_by)}. {found}; all clips {_percent(overall)}.",
        plots.by_group(slices, quantity, overall),
        [shown(group_by), "clips", quantity.lower()],
        [_slice_row(each) for each in slices],
    )


def _quantity(clips: Clips) -> str:
    return "Accuracy" if clips.labelled else "Mean top score"


def _bar_words(clips: Clips) -> str:
    if clips.labelled:
        return "Bars are Wilson's 95 % intervals, clips taken as independent."
    return "Bars hold the middle half of the scores."


def _slice_row(each: Slice) -> list[str]:
    ends = f"({100 * each.low:.1f} to {100 * each.high:.1f})"
    return [shown(each.name, 40), f"{each.clips:,}", f"{_percent(each.value)} {ends}"]


# Tables


def _pairs(clips: Clips) -> list[dict[str, Any]]:
    """The most frequent confusions."""
    if not clips.labelled:
        return []
    count = len(clips.run.labels)
    wrong = np.flatnonzero(~clips.right)
    cells = clips.true[wrong] * count + clips.top[wrong]
    often = np.bincount(cells, minlength=count**2)
    sums = np.bincount(cells, clips.score[wrong], minlength=count**2)
    totals = np.bincount(clips.true, minlength=count)
    labels = [shown(label, 40) for label in clips.run.labels]
    return [
        {
            "truth": labels[cell // count],
            "said": labels[cell % count],
            "clips": f"{often[cell]:,}",
            "share": float(often[cell] / totals[cell // count]),
            "score": _percent(float(sums[cell] / often[cell])),
        }
        for cell in np.argsort(-often, kind="stable")[:PAIRS].tolist()
        if often[cell]
    ]


def _worst(clips: Clips) -> list[dict[str, str]]:
    """The clips whose wrong label has the highest score."""
    if not clips.labelled:
        return []
    wrong = np.flatnonzero(~clips.right)
    wrong = wrong[np.argsort(-clips.score[wrong], kind="stable")[:WORST]]
    labels = [shown(label, 40) for label in clips.run.labels]
    ids = _cells(clips.run, clips.run.record["columns"]["id"], clips.rows[wrong])
    texts = _cells(clips.run, "text", clips.rows[wrong])
    return [
        {
            "id": shown(clip, 80),
            "truth": labels[clips.true[number]],
            "said": labels[clips.top[number]],
            "score": _percent(float(clips.score[number])),
            "truth_score": _percent(float(clips.scores[number, clips.true[number]])),
            "duration": f"{seconds:.1f} s" if np.isfinite(seconds := clips.duration[number]) else NONE,
            "text": shown(text, LETTERS),
        }
        for number, clip, text in zip(wrong.tolist(), ids, texts, strict=True)
    ]


def _errors(run: Run) -> dict[str, Any] | None:
    """How many errors of each kind, and the first of them; None where there are none."""
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
            (shown(clip, 80), shown(message, 300))
            for clip, message in zip(ids[:ERRORS], messages[:ERRORS], strict=True)
        ],
    }


def _kind(message: str, name: str) -> str:
    """An error without what is only this clip's: the file's name, with the folders before it, and figures."""
    at = message.find(name) if name else -1
    if at >= 0:
        start = max(message.rfind(" ", 0, at), message.rfind("'", 0, at), message.rfind('"', 0, at)) + 1
        message = message[:start] + "…" + message[at + len(name) :]
    message = shown(message, LETTERS)
    return re.sub(r"\d+", "#", message)


def _cells(run: Run, name: str, rows: Int[np.ndarray, " some"]) -> list[str]:
    """A column's cells in some rows; empty where it has none."""
    return ["" if cell is None else str(cell) for cell in run.table.column(name).take(rows).to_pylist()]


# Throughput and provenance


def _speed(throughput: Mapping[str, int | float]) -> list[tuple[str, str]]:
    """(what, how much) a second and host; of sound where there is any."""
    seconds, compiling = throughput["seconds"], throughput["compile_seconds"]
    of, key = ("audio-seconds", "audio_seconds") if throughput["audio_seconds"] else ("clips", "clips")
    per = "per second" if throughput.get("hosts", 1) == 1 else "per second and host"
    with_compilation, without = (
        f"{throughput[key] / each:,.1f}" if each > 0 else NONE for each in (seconds, seconds - compiling)
    )
    return [(f"{of} {per}", with_compilation), ("without compilation", without)]


def _throughput(throughput: Mapping[str, int | float]) -> list[tuple[str, str]]:
    rows = _speed(throughput)
    if throughput["audio_seconds"]:
        rows.append(("of audio", _time(throughput["audio_seconds"])))
    rows += [
        (_plural("clip", throughput["clips"]), f"{throughput['clips']:,}"),
        ("of work, all hosts added", _time(throughput["seconds"])),
        ("of it compiling", _time(throughput["compile_seconds"])),
    ]
    return rows + [
        (_plural(name, throughput[f"{name}s"]), f"{throughput[f'{name}s']:,}") for name in ("host", "device")
    ]


def _flat(provenance: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of everything."""
    for name, value in provenance.items():
        name = f"{within}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            yield shown(name, 200), shown(", ".join(map(str, value)), 10_000) or "none"
        else:
            yield shown(name, 200), "none" if value in (None, "", {}) else shown(str(value), 10_000)


# Words


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\xa0%"


def _time(seconds: int | float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f}\xa0{unit}"
    return f"{seconds:.1f}\xa0s"


def _plural(name: str, count: int | float) -> str:
    return name if count == 1 else f"{name}s"


def _count(count: int, name: str) -> str:
    return f"{count:,} {_plural(name, count)}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
