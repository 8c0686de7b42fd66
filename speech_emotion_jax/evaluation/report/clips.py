"""The clips of a report as arrays, and the accuracy of subsets of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from ...runtime.plots import Slice
from ..metrics import wilson_interval
from ..results import EvaluationRun


@dataclass(frozen=True)
class ReportClips:
    """The clips in the figures: those with finite scores and, in a run with metrics, with a label.

    Attributes:
        run: The run.
        rows: The rows of the clips in the run's table.
        scores: The scores of the clips.
        true: The number of each clip's true label in the run's labels, -1 without a label.
        labelled: Whether all clips have a label.
    """

    run: EvaluationRun
    rows: Int[np.ndarray, " clips"]  # in the run's table
    scores: Float[np.ndarray, "clips labels"]
    true: Int[np.ndarray, " clips"]
    labelled: bool

    @classmethod
    def of(cls, run: EvaluationRun, labelled: bool) -> ReportClips:
        """Select the clips of a run."""
        place = {label: number for number, label in enumerate(run.labels)}
        true = np.array([place.get(label, -1) if label else -1 for label in run.truth], int)
        good = run.scored & np.isfinite(run.probabilities).all(axis=1)
        rows = np.flatnonzero(good & (true >= 0) if labelled else good)
        return cls(run, rows, run.probabilities[rows], true[rows], labelled)

    @cached_property
    def top(self) -> Int[np.ndarray, " clips"]:
        """The number of the predicted label."""
        return self.scores.argmax(axis=1)

    @cached_property
    def score(self) -> Float[np.ndarray, " clips"]:
        """The score of the predicted label."""
        return self.scores.max(axis=1)

    @cached_property
    def right(self) -> Bool[np.ndarray, " clips"]:
        """Whether the predicted label is the true one."""
        return self.top == self.true

    @cached_property
    def duration(self) -> Float[np.ndarray, " clips"]:
        """The length of the recording in seconds; NaN without a recording."""
        return self.run.table.column("duration").cast("float64").to_numpy()[self.rows]

    def slice(self, name: str, which: Int[np.ndarray, " some"]) -> Slice:
        """Return the accuracy of some clips with its interval; without labels, their mean score and its quartiles."""
        if not self.labelled:
            low, high = np.percentile(self.score[which], (25, 75))
            return Slice(name, len(which), float(self.score[which].mean()), float(low), float(high))
        right, count = self.right[which], len(self.run.labels)
        support = np.bincount(self.true[which], minlength=count)
        recall = np.bincount(self.true[which], right, minlength=count)[support > 0] / support[support > 0]
        low, high = wilson_interval(right.mean(keepdims=True), np.array([len(which)]))[:, 0]
        return Slice(name, len(which), float(right.mean()), float(low), float(high), float(recall.mean()))
