"""The field's metrics of a classifier that gives each clip one label, with bootstrap intervals.

All are fractions, log-loss (nats) apart. A clip's label is the one of the highest score, the checkpoint's first where
scores tie. Averages over labels (UAR and the macro ones) take the labels that occur in the truth: one that is
predicted and never true has a place in no average, but each clip that it was given to is an error of the clip's own
label. What is undefined, such as the precision of a label that is never predicted, counts as 0.

ECE is that of Guo et al. 2017 (On Calibration of Modern Neural Networks): 15 bins of equal width on the confidence,
which is the score of the clip's label; a bin is open below and closed above.

Intervals are percentiles of the bootstrap, ECE's apart. Noise makes ECE larger, and a resample has more of it: plain
percentiles lie too high, and never reach the 0 of a calibrated checkpoint. So ECE's are mirrored about its value, which
may then lie above them, and reach down to 0 where noise alone would give as much. How often intervals hold the true
value, by scripts/interval_coverage.py: 94 % on 300 clips, ECE's 90 to 96 %; with 20 groups 91 to 94 %, weighted
precision's only 82 %. Labels with few clips make them too narrow too; where every clip is right they have no width.

Scores that sum to 1 are divided by their sum, which takes off the rounding of float32. Where they don't (a checkpoint
whose labels do not exclude one another) log-loss is not defined and left out (None); ECE takes the score as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from ..errors import InvalidInput

BINS = 15
EDGES = np.linspace(0, 1, BINS + 1)
ROUNDING = 1e-3  # how far from 1 the sum of a clip's scores may be and still mean 1
LEAST = np.finfo(np.float64).eps  # the smallest score that log-loss takes, scikit-learn's
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap: 95 %


@dataclass(frozen=True)
class LabelledScores:
    """What the metrics take of each clip. Labels are numbers, by their place in `labels`."""

    labels: tuple[str, ...]
    true: Int[np.ndarray, " clips"]
    top: Int[np.ndarray, " clips"]
    confidence: Float[np.ndarray, " clips"]  # of the top label
    loss: Float[np.ndarray, " clips"] | None  # -log of the true label's probability; None: scores don't sum to 1

    @classmethod
    def of(
        cls, truth: Sequence[str], probabilities: Float[np.ndarray, "clips labels"], labels: Sequence[str]
    ) -> LabelledScores:
        """Raises InvalidInput where there is no clip, one label, a true label the checkpoint lacks, or no fraction."""
        if len(labels) < 2:
            raise InvalidInput(
                f"a checkpoint with the labels {list(labels)} decides nothing; measure one with two or more"
            )
        if probabilities.shape != (len(truth), len(labels)):
            raise InvalidInput(
                f"scores of shape {probabilities.shape} don't fit {len(truth)} clips and {len(labels)} labels;"
                " give a row a clip and a column a label"
            )
        if not len(truth):
            raise InvalidInput("there is no clip to measure; give one that has a label and scores")
        place = {label: number for number, label in enumerate(labels)}
        unknown = sorted({str(label) for label in truth if label not in place})
        if unknown:
            raise InvalidInput(
                f"the truth has labels that the checkpoint lacks: {', '.join(unknown)}; map them to its own"
                f" ({', '.join(labels)})"
            )
        if not ((probabilities >= 0) & (probabilities <= 1 + ROUNDING)).all():
            raise InvalidInput("some scores are no fractions from 0 to 1; leave out the clips that could not be scored")
        true = np.array([place[label] for label in truth])
        top = probabilities.argmax(axis=1)
        sums = probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
        exclusive = np.abs(sums - 1).max() <= ROUNDING
        scores = probabilities / sums if exclusive else probabilities.astype(np.float64)
        clips = np.arange(len(true))
        loss = -np.log(np.clip(scores[clips, true], LEAST, 1 - LEAST)) if exclusive else None
        return cls(tuple(labels), true, top, scores[clips, top], loss)

    @property
    def correct(self) -> Bool[np.ndarray, " clips"]:
        return self.top == self.true

    @property
    def confidence_bin(self) -> Int[np.ndarray, " clips"]:
        """The bin of each clip's confidence."""
        return np.clip(np.searchsorted(EDGES, self.confidence, side="left") - 1, 0, BINS - 1)

    @property
    def bin_gaps(self) -> Float[np.ndarray, " bins"]:
        """Accuracy minus confidence of each bin, times its share of the clips. ECE is the sum of their sizes."""
        return np.bincount(self.confidence_bin, self.correct - self.confidence, minlength=BINS) / len(self.true)


def measure(
    truth: Sequence[str],
    probabilities: Float[np.ndarray, "clips labels"],
    labels: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of scored clips, as JSON values.

    `labels` are the columns of `probabilities`, the checkpoint's order. `groups` names each clip's speaker, video or
    the like: clips of a group are alike, so the intervals come from drawing whole groups (see `bootstrap`).

    Given back: "accuracy" (WAR), "uar", "weighted_precision" (recall, f1: by the true labels' clips), "macro_precision"
    (recall, which is the UAR, and f1), "ece", "log_loss" (None where scores don't sum to 1), "per_class" {label:
    {"precision", "recall", "f1", "support" (clips that have it), "predicted" (clips given it)}}, "confusion_matrix"
    {"labels", "counts"} (a row a true label, a column a predicted one), "reliability" {"edges" (16), "count" (15),
    "confidence" and "accuracy" (their means in the bin, None in an empty one)}, "intervals" {metric: [low, high]}
    (95 %; {} where there are not two groups to draw from), "clips", "groups" (how many, None without), "labels" (the
    checkpoint's), "truth_labels" (those that occur). Raises InvalidInput as `LabelledScores.of`, and where `groups` has
    another length.
    """
    outcome = LabelledScores.of(truth, probabilities, labels)
    true, top, count = outcome.true, outcome.top, len(labels)
    supports = np.bincount(true, minlength=count)
    present = np.flatnonzero(supports).tolist()

    def averages(kind: str | None, over: Any) -> tuple[Any, ...]:
        return precision_recall_fscore_support(true, top, labels=over, average=kind, zero_division=0)[:3]  # pyright: ignore

    weighted, macro = averages("weighted", present), averages("macro", present)
    single, predicted = averages(None, np.arange(count)), np.bincount(top, minlength=count)
    codes = group_codes(groups, len(true))
    several = codes.max() > 0
    return {
        "clips": len(true),
        "groups": None if groups is None else int(codes.max()) + 1,
        "labels": list(labels),
        "truth_labels": [labels[number] for number in present],
        "accuracy": float(accuracy_score(true, top)),
        "uar": float(macro[1]),
        **{
            f"weighted_{name}": float(value)
            for name, value in zip(("precision", "recall", "f1"), weighted, strict=True)
        },
        **{f"macro_{name}": float(value) for name, value in zip(("precision", "recall", "f1"), macro, strict=True)},
        "ece": float(np.abs(outcome.bin_gaps).sum()),
        "log_loss": None if outcome.loss is None else float(outcome.loss.mean()),
        "intervals": confidence_intervals(outcome, bootstrap(outcome, codes, resamples, seed)) if several else {},
        "per_class": {
            label: {
                "precision": float(single[0][number]),
                "recall": float(single[1][number]),
                "f1": float(single[2][number]),
                "support": int(supports[number]),
                "predicted": int(predicted[number]),
            }
            for number, label in enumerate(labels)
        },
        "confusion_matrix": {
            "labels": list(labels),
            "counts": confusion_matrix(true, top, labels=np.arange(count)).tolist(),
        },
        "reliability": _reliability(outcome),
    }


def group_codes(groups: Sequence[Hashable] | None, clips: int) -> Int[np.ndarray, " clips"]:
    """Numbers from 0 in the place of groups' names. A clip without a group (None, "") is a group of its own."""
    if groups is None:
        return np.arange(clips)
    if len(groups) != clips:
        raise InvalidInput(f"{len(groups)} groups don't fit {clips} clips; give each clip one, or None")
    numbers: dict[Hashable, int] = {}
    own = (object() if group is None or group == "" else group for group in groups)
    return np.array([numbers.setdefault(group, len(numbers)) for group in own])


@dataclass(frozen=True)
class Resamples:
    """Metrics of resamples: each value is what `measure` gives for the clips drawn."""

    metrics: dict[str, Float[np.ndarray, " resamples"]]
    bin_gaps: Float[np.ndarray, "resamples bins"]  # as `LabelledScores.gaps`


def bootstrap(
    outcome: LabelledScores, codes: Int[np.ndarray, " clips"], resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Draw as many groups as there are, with replacement, each with all its clips, and measure; `resamples` times.

    `codes` are the groups' numbers (`group_codes`). The same codes and seed draw the same clips, which pairs the
    resamples of two outcomes. Memory grows with the clips, and not with clips times resamples.
    """
    rng = np.random.default_rng(seed)
    groups, labels = codes.max() + 1, len(outcome.labels)
    cell, bins, gap = outcome.true * labels + outcome.top, outcome.confidence_bin, outcome.correct - outcome.confidence
    confusion = np.empty((resamples, labels * labels))
    gaps, loss = np.empty((resamples, BINS)), np.empty(resamples)
    for number in range(resamples):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)[codes].astype(np.float64)
        confusion[number] = np.bincount(cell, times, minlength=labels * labels)
        gaps[number] = np.bincount(bins, times * gap, minlength=BINS) / times.sum()
        if outcome.loss is not None:
            loss[number] = times @ outcome.loss / times.sum()
    metrics = _averages(confusion.reshape(resamples, labels, labels)) | {"ece": np.abs(gaps).sum(axis=1)}
    return Resamples(metrics if outcome.loss is None else metrics | {"log_loss": loss}, gaps)


def confidence_intervals(outcome: LabelledScores, drawn: Resamples) -> dict[str, list[float]]:
    """{metric: [low, high]} at 95 %."""
    ece = np.abs(outcome.bin_gaps).sum()
    low, high = percentile_interval(2 * ece - drawn.metrics["ece"])
    noise = np.abs(drawn.bin_gaps - outcome.bin_gaps).sum(axis=1)  # the ECE that a calibrated checkpoint would show
    if ece <= np.percentile(noise, INTERVAL[1]):
        low = 0.0
    return {name: percentile_interval(values) for name, values in drawn.metrics.items()} | {
        "ece": [max(low, 0.0), max(high, 0.0)]
    }


def percentile_interval(values: Float[np.ndarray, " resamples"]) -> list[float]:
    """[low, high] that hold 95 % of the resamples' values, as many outside at either end."""
    return [float(end) for end in np.percentile(values, INTERVAL)]


def _averages(
    confusion: Float[np.ndarray, "resamples labels labels"],
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Metrics of confusion matrices (true, predicted)."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    share = support / support.sum(axis=1, keepdims=True)
    present = support > 0
    return {
        "accuracy": right.sum(axis=1) / support.sum(axis=1),
        "uar": np.average(recall, axis=1, weights=present),
        "macro_f1": np.average(f1, axis=1, weights=present),
        "weighted_precision": (precision * share).sum(axis=1),
        "weighted_recall": (recall * share).sum(axis=1),
        "weighted_f1": (f1 * share).sum(axis=1),
    }


def _reliability(outcome: LabelledScores) -> dict[str, list[Any]]:
    count = np.bincount(outcome.confidence_bin, minlength=BINS)

    def means(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(outcome.confidence_bin, values, minlength=BINS)
        return [float(total / clips) if clips else None for total, clips in zip(sums, count, strict=True)]

    return {
        "edges": EDGES.tolist(),
        "count": count.tolist(),
        "confidence": means(outcome.confidence),
        "accuracy": means(outcome.correct),
    }
