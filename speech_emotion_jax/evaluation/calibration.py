"""Temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks).

The temperature is fitted on clips with labels and applied to other clips.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ..errors import InvalidInput
from ..runtime.storage import Folder
from .metrics import LabelledScores, measure
from .results import SCORE_PREFIX, EvaluationRun, first_names

RECORD = "calibration.json"
CALIBRATED = "calibrated.parquet"
MIN_SCORE = float(np.finfo(np.float32).tiny)  # smallest normal float32; stands in for scores that were rounded to 0
MAX_TEMPERATURE = 100.0  # temperatures are searched from 1/100 to 100
DISPLAYED_METRICS = ("accuracy", "uar", "macro_f1", "ece", "log_loss")


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature and its effect on the clips that it was applied to.

    Attributes:
        temperature: The temperature.
        fitted_on: {"run", "split", "clips", "left_out"}. "left_out" counts clips with an error or without a label.
        applied_to: The same for the clips that the temperature was applied to.
        before: `measure` of the labelled clips without an error, before scaling. None if no clip has a label.
        after: The same after scaling.
        table: The columns id and score_<label> of all clips that the temperature was applied to, null for clips with an
            error.
    """

    temperature: float
    fitted_on: dict[str, Any]
    applied_to: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    table: pa.Table


def fit_temperature(
    truth: Sequence[str], probabilities: Float[np.ndarray, "clips labels"], labels: Sequence[str]
) -> float:
    """Find the temperature T at which softmax(log(probabilities) / T) has the lowest log-loss.

    Args:
        truth: The true label of each clip.
        probabilities: The scores of the clips.
        labels: The labels of the columns of `probabilities`.

    Raises:
        InvalidInput: No temperature from 1/100 to 100 is best, because every clip is right or the scores don't match
            the truth; a clip's scores don't sum to 1; or the input is refused by `measure`.
    """
    scores = LabelledScores.of(truth, probabilities, labels)
    if scores.loss is None:
        raise InvalidInput(
            "the scores of a clip don't sum to 1, so its labels don't exclude one another and no single temperature"
            " fits;"
            " calibrate a checkpoint with a softmax"
        )
    if scores.correct.all():
        raise InvalidInput(
            f"no temperature fits these {len(truth)} clips: every clip is right, so lower is always better; fit on"
            " other"
            " clips"
        )
    logits = _logits(probabilities)
    clips, edge = np.arange(len(truth)), np.log(MAX_TEMPERATURE)

    def loss(log_temperature: float) -> float:
        """Return the mean log-loss at a temperature."""
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[clips, scores.true].mean())

    # The loss is convex in 1/T, so it has one minimum between the bounds.
    best = float(minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-7}).x)  # pyright: ignore
    if edge - abs(best) < 1e-3:
        cause = "lower is always better" if best < 0 else "the scores don't match the truth"
        raise InvalidInput(
            f"no temperature from {1 / MAX_TEMPERATURE:g} to {MAX_TEMPERATURE:g} fits these {len(truth)} clips:"
            f" {cause}; fit on other clips"
        )
    return float(np.exp(best))


def apply_temperature(
    probabilities: Float[np.ndarray, "clips labels"], temperature: float
) -> Float[np.ndarray, "clips labels"]:
    """Return softmax(log(probabilities) / temperature). The order of a clip's labels does not change."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def _logits(probabilities: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "clips labels"]:
    """Return the logarithm of probabilities, with 0 replaced by the smallest normal float32."""
    return np.log(np.maximum(probabilities.astype(np.float64), MIN_SCORE))


def calibrate(
    fit_run: EvaluationRun,
    apply_run: EvaluationRun,
    *,
    fit_split: str | None = None,
    apply_split: str | None = None,
    group_by: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Fit a temperature on clips of one run and apply it to clips of another run or split.

    Args:
        fit_run: The run to fit on.
        apply_run: The run to apply the temperature to. It may be the same run if the splits differ.
        fit_split: The split of `fit_run` to use. None: all clips.
        apply_split: The split of `apply_run` to use. None: all clips.
        group_by: The column with the groups that the intervals are drawn by.
        resamples: The number of bootstrap resamples.
        seed: The seed of the bootstrap.

    Raises:
        InvalidInput: A clip is in both selections, compared by id; the runs have different labels; no clip to fit on
            has both a label and scores; the split or column doesn't exist; or `fit_temperature` raises.
    """
    if set(fit_run.labels) != set(apply_run.labels):
        raise InvalidInput(
            f"{fit_run.name} has the labels {', '.join(fit_run.labels)} and {apply_run.name} has"
            f" {', '.join(apply_run.labels)}; a temperature holds for one checkpoint"
        )
    fit_mask, apply_mask = _select_split(fit_run, fit_split), _select_split(apply_run, apply_split)
    fitted = set(_take(fit_run.ids, fit_mask))
    both = [each for each in _take(apply_run.ids, apply_mask) if each in fitted]
    if both:
        raise InvalidInput(
            f"{len(both)} clips are in both selections ({first_names(both)}), but a temperature can't be measured on"
            " the"
            " clips it was fitted on; name splits, or runs, that share no clip"
        )
    fit = _measurable(fit_run, fit_mask)
    if not fit.any():
        raise InvalidInput(
            f"{_name_selection(fit_run, fit_split)} has no clip with a label and scores; fit on labelled clips"
        )
    temperature = fit_temperature(_take(fit_run.truth, fit), fit_run.probabilities[fit], fit_run.labels)

    scores = np.full_like(apply_run.probabilities, np.nan)
    scored = apply_mask & apply_run.scored
    scores[scored] = apply_temperature(apply_run.probabilities[scored], temperature)
    measured = _measurable(apply_run, apply_mask)

    def metrics(probabilities: np.ndarray) -> dict[str, Any] | None:
        """Measure the labelled clips of the selection."""
        if not measured.any():
            return None
        truth = _take(apply_run.truth, measured)
        groups = None if group_by is None else _take(apply_run.column(group_by), measured)
        return measure(truth, probabilities[measured], apply_run.labels, groups=groups, resamples=resamples, seed=seed)

    columns = {"id": pa.array(_take(apply_run.ids, apply_mask))}
    for label, column in zip(apply_run.labels, scores[apply_mask].T, strict=True):
        columns[SCORE_PREFIX + label] = pa.array(column.astype(np.float32), from_pandas=True)  # NaN becomes null.
    return Calibration(
        temperature,
        _describe_selection(fit_run, fit_split, fit_mask, fit),
        _describe_selection(apply_run, apply_split, apply_mask, measured),
        metrics(apply_run.probabilities),
        metrics(scores),
        pa.table(columns),
    )


def write_calibration(calibration: Calibration, path: str) -> None:
    """Write calibration.json and calibrated.parquet into the folder `path`, which is created if necessary."""
    folder = Folder.open(path)
    folder.make()
    record = {
        "temperature": calibration.temperature,
        "fitted_on": calibration.fitted_on,
        "applied_to": calibration.applied_to,
        "before": calibration.before,
        "after": calibration.after,
    }
    with folder.writing(CALIBRATED) as file:
        pq.write_table(calibration.table, file)
    folder.write(RECORD, (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode())


def render_calibration(calibration: Calibration) -> str:
    """Format the temperature and the metrics before and after scaling for a terminal."""
    lines = [f"Temperature {calibration.temperature:.4f}"]
    for verb, part in (("fitted on", calibration.fitted_on), ("applied to", calibration.applied_to)):
        split = "" if part["split"] is None else f", split {part['split']}"
        lines.append(f"  {verb} {part['run']}{split}: {part['clips']} clips, {part['left_out']} left out")
    if calibration.before is None or calibration.after is None:
        return "\n".join([*lines, "None of the clips that it was applied to has a label, so nothing was measured."])
    lines += ["", f"{'':<10}{'before':>8}  {'95 % interval':<18}{'after':>8}  95 % interval"]
    for name in DISPLAYED_METRICS:
        before, after = (_cell(metrics, name) for metrics in (calibration.before, calibration.after))
        lines.append(f"{name:<10}{before:<28}{after}".rstrip())
    return "\n".join(lines)


def _cell(metrics: dict[str, Any], name: str) -> str:
    """Format a metric with its interval."""
    ends = metrics["intervals"].get(name)
    return f"{metrics[name]:>8.4f}" + (f"  {ends[0]:.4f} to {ends[1]:.4f}" if ends else "")


def _select_split(run: EvaluationRun, split: str | None) -> Bool[np.ndarray, " clips"]:
    """Return which clips of a run are in the split; all clips if no split is named."""
    if split is None:
        return np.ones(len(run.table), bool)
    column = run.record["columns"].get("split")
    if column is None:
        raise InvalidInput(f"{run.name} has no splits; score a manifest with a split column, or name no split")
    splits = run.column(column)
    if split not in splits:
        known = ", ".join(sorted({str(each) for each in splits}))
        raise InvalidInput(f"{run.name} has no split {split!r}; there are {known}")
    return np.array([each == split for each in splits])


def _measurable(run: EvaluationRun, part: Bool[np.ndarray, " clips"]) -> Bool[np.ndarray, " clips"]:
    """Return which of the selected clips have both a label and scores."""
    return part & run.scored & np.array([label is not None for label in run.truth], bool)


def _take(values: Sequence[Any], where: Bool[np.ndarray, " clips"]) -> list[Any]:
    """Return the values where the mask is true."""
    return [values[place] for place in np.flatnonzero(where).tolist()]


def _describe_selection(run: EvaluationRun, split: str | None, part: np.ndarray, used: np.ndarray) -> dict[str, Any]:
    """Describe a selection of clips for calibration.json."""
    return {"run": run.name, "split": split, "clips": int(used.sum()), "left_out": int((part & ~used).sum())}


def _name_selection(run: EvaluationRun, split: str | None) -> str:
    """Name a run, with its split if there is one, for a message."""
    return run.name if split is None else f"the split {split} of {run.name}"
