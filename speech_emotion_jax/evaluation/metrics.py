"""Metrics of a classifier that gives each clip one label, with bootstrap intervals.

All metrics are fractions except log-loss, which is in nats. The predicted label is the one with the highest score; of
equal scores, the one that comes first in the checkpoint's order. Averages over labels (UAR and the macro averages) run
over the labels that occur in the truth. A label that is predicted but never true has no term of its own in these
averages; each clip it was predicted for counts as an error of that clip's true label. Undefined values, such as the
precision of a label that is never predicted, count as 0.

ECE is the expected calibration error of Guo et al. 2017 (On Calibration of Modern Neural Networks): 15 bins of equal
width on the confidence, which is the score of the predicted label. A bin is open below and closed above.

Intervals are percentiles of the bootstrap, except for ECE. Noise increases ECE, and a resample is noisier than the
sample, so plain percentiles would lie too high and never reach 0 for a calibrated checkpoint. Therefore the interval of
ECE is mirrored about the measured value, which may then lie above its own interval. The interval reaches down to 0 if
noise alone would explain the measured value.

scripts/interval_coverage.py measures how often the intervals contain the true value: 94 % on 300 clips (ECE: 90 to
96 %); 91 to 94 % with 20 groups, but only 82 % for weighted precision. Labels with few clips make intervals too narrow
as well.

If every clip is right, or every clip is wrong, all resamples are alike and tell nothing of what other clips would give.
The intervals are then Wilson's, of as many independent trials as there are clips; with groups, as there are groups.

Scores that sum to 1 are divided by their sum, which removes the rounding of float32. If they don't sum to 1, as with a
checkpoint whose labels do not exclude one another, log-loss is undefined (None) and ECE uses the scores unchanged.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from ..corpus import NOTHING
from ..errors import InvalidInput

BINS = 15
EDGES = np.linspace(0, 1, BINS + 1)
SUM_TOLERANCE = 1e-3  # how far the sum of a clip's scores may be from 1
MIN_PROBABILITY = np.finfo(np.float64).eps  # log-loss clips probabilities here, as scikit-learn does
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap, for 95 % intervals


@dataclass(frozen=True)
class LabelledScores:
    """The truth and the predictions of clips, reduced to what the metrics need.

    Labels are given by their index in `labels`.

    Attributes:
        labels: The checkpoint's labels.
        true: The true label of each clip.
        top: The predicted label of each clip.
        confidence: The score of the predicted label.
        loss: -log of the true label's probability; None if the scores don't sum to 1.
    """

    labels: tuple[str, ...]
    true: Int[np.ndarray, " clips"]
    top: Int[np.ndarray, " clips"]
    confidence: Float[np.ndarray, " clips"]
    loss: Float[np.ndarray, " clips"] | None

    @classmethod
    def of(
        cls, truth: Sequence[str], probabilities: Float[np.ndarray, "clips labels"], labels: Sequence[str]
    ) -> LabelledScores:
        """Check the truth and the scores of clips and combine them.

        Args:
            truth: The true label of each clip.
            probabilities: The score of each label, from 0 to 1.
            labels: The labels of the columns of `probabilities`.

        Raises:
            InvalidInput: There is no clip, there are fewer than two labels, the shapes don't match, the truth has a
                label that the checkpoint lacks, or a score is outside 0 to 1.
        """
        if len(labels) < 2:
            raise InvalidInput(
                f"a checkpoint needs two or more labels to be measured, and this one has {list(labels)}; choose another"
                " checkpoint"
            )
        if probabilities.shape != (len(truth), len(labels)):
            raise InvalidInput(
                f"scores of shape {probabilities.shape} don't fit {len(truth)} clips and {len(labels)} labels;"
                " give one row per clip and one column per label"
            )
        if not len(truth):
            raise InvalidInput("there is no clip to measure; give at least one clip with a label and scores")
        index = {label: number for number, label in enumerate(labels)}
        unknown = sorted({str(label) for label in truth if label not in index})
        if unknown:
            raise InvalidInput(
                f"the truth has labels that the checkpoint lacks: {', '.join(unknown)}; map them to the checkpoint's"
                f" labels ({', '.join(labels)})"
            )
        if not ((probabilities >= 0) & (probabilities <= 1 + SUM_TOLERANCE)).all():
            raise InvalidInput("some scores are not between 0 and 1; leave out the clips that could not be scored")
        true = np.array([index[label] for label in truth])
        top = probabilities.argmax(axis=1)
        sums = probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
        exclusive = np.abs(sums - 1).max() <= SUM_TOLERANCE
        scores = probabilities / sums if exclusive else probabilities.astype(np.float64)
        clips = np.arange(len(true))
        loss = -np.log(np.clip(scores[clips, true], MIN_PROBABILITY, 1 - MIN_PROBABILITY)) if exclusive else None
        return cls(tuple(labels), true, top, scores[clips, top], loss)

    @property
    def correct(self) -> Bool[np.ndarray, " clips"]:
        """Whether the predicted label is the true one."""
        return self.top == self.true

    @property
    def confidence_bin(self) -> Int[np.ndarray, " clips"]:
        """The calibration bin of each clip's confidence."""
        return np.clip(np.searchsorted(EDGES, self.confidence, side="left") - 1, 0, BINS - 1)

    @property
    def bin_gaps(self) -> Float[np.ndarray, " bins"]:
        """Accuracy minus mean confidence of each bin, times the bin's fraction of the clips.

        ECE is the sum of their absolute values.
        """
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
    """Compute all metrics of scored clips.

    Args:
        truth: The true label of each clip.
        probabilities: The score of each label, from 0 to 1.
        labels: The labels of the columns of `probabilities`, in the checkpoint's order.
        groups: The speaker, video or other group of each clip. Clips of a group resemble each other, so the bootstrap
            draws whole groups (see `bootstrap`). None: it draws single clips.
        resamples: The number of bootstrap resamples.
        seed: The seed of the bootstrap.

    Returns:
        A dictionary of JSON values with these keys:

        - "clips": the number of clips; "groups": the number of groups, None without `groups`.
        - "labels": the checkpoint's labels; "truth_labels": those that occur in the truth.
        - "accuracy" (WAR), "uar", "weighted_precision", "weighted_recall", "weighted_f1" (weighted by the clips of the
          true labels), "macro_precision", "macro_recall" (equal to the UAR), "macro_f1", "ece".
        - "log_loss": None if the scores don't sum to 1.
        - "per_class": {label: {"precision", "recall", "f1", "support", "predicted"}}. "support" counts the clips with
          that true label, "predicted" those with that predicted label.
        - "confusion_matrix": {"labels", "counts"}, one row per true label, one column per predicted label.
        - "reliability": {"edges" (16 values), "count", "confidence", "accuracy" (15 values each)}. The last two are
          means over the clips of a bin, None in an empty bin.
        - "intervals": {metric: [low, high]}, 95 % intervals; empty with fewer than two groups to draw from.

    Raises:
        InvalidInput: See `LabelledScores.of`; or `groups` has another length than `truth`.
    """
    scores = LabelledScores.of(truth, probabilities, labels)
    true, top, count = scores.true, scores.top, len(labels)
    supports = np.bincount(true, minlength=count)
    present = np.flatnonzero(supports).tolist()

    def averages(kind: str | None, over: Any) -> tuple[Any, ...]:
        """Return precision, recall and F1, averaged as `kind` says over the labels `over`."""
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
        "ece": float(np.abs(scores.bin_gaps).sum()),
        "log_loss": None if scores.loss is None else float(scores.loss.mean()),
        "intervals": confidence_intervals(scores, bootstrap(scores, codes, resamples, seed), int(codes.max()) + 1)
        if several
        else {},
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
        "reliability": _reliability(scores),
    }


def group_codes(groups: Sequence[Hashable] | None, clips: int) -> Int[np.ndarray, " clips"]:
    """Number the groups of clips from 0.

    Args:
        groups: The group of each clip; None, "" or NaN for a clip without a group, which forms a group of its own. If
            the whole argument is None, every clip forms its own group.
        clips: The number of clips.

    Returns:
        The number of each clip's group, in the order in which groups first occur.

    Raises:
        InvalidInput: `groups` has another length than `clips`.
    """
    if groups is None:
        return np.arange(clips)
    if len(groups) != clips:
        raise InvalidInput(f"{len(groups)} groups don't fit {clips} clips; give each clip one group, or None")
    if any(isinstance(group, list | dict) for group in groups):
        raise InvalidInput("the column to group by has lists or objects; name one with a speaker or video a row")
    numbers: dict[Hashable, int] = {}
    own = (object() if group in (None, "", *NOTHING) or group != group else group for group in groups)
    return np.array([numbers.setdefault(group, len(numbers)) for group in own])


@dataclass(frozen=True)
class Resamples:
    """Metrics of bootstrap resamples.

    Attributes:
        metrics: {metric: its value for each resample}, named as in `measure`.
        bin_gaps: `LabelledScores.bin_gaps` of each resample.
    """

    metrics: dict[str, Float[np.ndarray, " resamples"]]
    bin_gaps: Float[np.ndarray, "resamples bins"]  # as `LabelledScores.gaps`


def bootstrap(
    scores: LabelledScores, codes: Int[np.ndarray, " clips"], resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Measure resamples of the clips.

    A resample draws as many groups as there are, with replacement, each with all its clips. Memory grows with the
    number of clips, not with clips times resamples.

    Args:
        scores: The truth and the predictions.
        codes: The number of each clip's group, from `group_codes`.
        resamples: The number of resamples.
        seed: The same codes and seed draw the same clips, which pairs the resamples of two runs.
    """
    rng = np.random.default_rng(seed)
    groups, labels = codes.max() + 1, len(scores.labels)
    cell, bins, gap = scores.true * labels + scores.top, scores.confidence_bin, scores.correct - scores.confidence
    confusion = np.empty((resamples, labels * labels))
    gaps, loss = np.empty((resamples, BINS)), np.empty(resamples)
    for number in range(resamples):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)[codes].astype(np.float64)
        confusion[number] = np.bincount(cell, times, minlength=labels * labels)
        gaps[number] = np.bincount(bins, times * gap, minlength=BINS) / times.sum()
        if scores.loss is not None:
            loss[number] = times @ scores.loss / times.sum()
    metrics = _averages(confusion.reshape(resamples, labels, labels)) | {"ece": np.abs(gaps).sum(axis=1)}
    return Resamples(metrics if scores.loss is None else metrics | {"log_loss": loss}, gaps)


def confidence_intervals(scores: LabelledScores, drawn: Resamples, groups: int) -> dict[str, list[float]]:
    """Compute the 95 % interval [low, high] of each metric. The module's docstring explains the special cases.

    Args:
        scores: The truth and the predictions.
        drawn: Their resamples.
        groups: The number of groups that were drawn from; of clips, where each is its own group.
    """
    ece = np.abs(scores.bin_gaps).sum()
    low, high = percentile_interval(2 * ece - drawn.metrics["ece"])
    noise = np.abs(drawn.bin_gaps - scores.bin_gaps).sum(axis=1)  # the ECE that a calibrated checkpoint would show
    if ece <= np.percentile(noise, INTERVAL[1]):
        low = 0.0
    intervals = {name: percentile_interval(values) for name, values in drawn.metrics.items()}
    accuracy = float(scores.correct.mean())
    if accuracy in (0, 1):
        ends = wilson_interval(np.array([accuracy]), np.array([groups]))[:, 0].tolist()
        intervals |= {name: ends for name in drawn.metrics if name != "log_loss"}
    return intervals | {"ece": [max(low, 0.0), max(high, 0.0)]}


def percentile_interval(values: Float[np.ndarray, " resamples"]) -> list[float]:
    """Return [low, high], the 2.5th and the 97.5th percentile."""
    return [float(end) for end in np.percentile(values, INTERVAL)]


def wilson_interval(fractions: Float[np.ndarray, " any"], clips: Int[np.ndarray, " any"]) -> Float[np.ndarray, "2 any"]:
    """Compute Wilson's 95 % interval of fractions of independent clips.

    Args:
        fractions: The fraction of correct clips of each subset.
        clips: The number of clips of each subset.

    Returns:
        The lower and the upper ends; NaN for subsets without clips.
    """
    z = 1.959964
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (fractions + z**2 / (2 * clips)) / (1 + z**2 / clips)
        reach = z / (1 + z**2 / clips) * np.sqrt(fractions * (1 - fractions) / clips + z**2 / (4 * clips**2))
    return np.stack([np.maximum(middle - reach, 0), np.minimum(middle + reach, 1)])


def _averages(
    confusion: Float[np.ndarray, "resamples labels labels"],
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Compute metrics of confusion matrices, whose axes are the resample, the true label and the predicted label."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    fraction = support / support.sum(axis=1, keepdims=True)
    present = support > 0
    return {
        "accuracy": right.sum(axis=1) / support.sum(axis=1),
        "uar": np.average(recall, axis=1, weights=present),
        "macro_f1": np.average(f1, axis=1, weights=present),
        "weighted_precision": (precision * fraction).sum(axis=1),
        "weighted_recall": (recall * fraction).sum(axis=1),
        "weighted_f1": (f1 * fraction).sum(axis=1),
    }


def _reliability(scores: LabelledScores) -> dict[str, list[Any]]:
    """Return the "reliability" entry of `measure`."""
    count = np.bincount(scores.confidence_bin, minlength=BINS)

    def means(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(scores.confidence_bin, values, minlength=BINS)
        return [float(total / clips) if clips else None for total, clips in zip(sums, count, strict=True)]

    return {
        "edges": EDGES.tolist(),
        "count": count.tolist(),
        "confidence": means(scores.confidence),
        "accuracy": means(scores.correct),
    }
