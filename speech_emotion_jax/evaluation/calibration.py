"""Temperature scaling (Guo et al. 2017): fitted on clips with labels, applied to others."""

from __future__ import annotations

import io
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
from .results import SCORE_PREFIX, EvaluationRun

RECORD = "calibration.json"
CALIBRATED = "calibrated.parquet"
LEAST = float(np.finfo(np.float32).tiny)  # scores are float32: what is below is 0, and its logarithm at most this one's
HOTTEST = 100.0  # temperatures are looked for from 1/100 to 100
SHOWN = ("accuracy", "uar", "macro_f1", "ece", "log_loss")


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does to the clips that it was applied to.

    `before` and `after` are `measure`'s, of the clips with a label and no error; None where no clip has a label.
    `table` has the id and score_<label> columns of all clips it was applied to, null where a clip has an error.
    """

    temperature: float
    fitted_on: dict[str, Any]  # {"run", "split", "clips", "left_out": clips with an error or no label}
    applied_to: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    table: pa.Table


def fit_temperature(
    truth: Sequence[str], probabilities: Float[np.ndarray, "clips labels"], labels: Sequence[str]
) -> float:
    """The T at which softmax(log(probabilities) / T) has the least log-loss.

    Raises InvalidInput where there is none from 1/100 to 100 (every clip is right; the scores don't go with the truth),
    where scores don't sum to 1, and what `measure` refuses.
    """
    outcome = LabelledScores.of(truth, probabilities, labels)
    if outcome.loss is None:
        raise InvalidInput(
            "the scores of a clip don't sum to 1, so its labels don't exclude one another and no one temperature fits;"
            " calibrate a checkpoint with a softmax"
        )
    if outcome.correct.all():
        raise InvalidInput(
            f"no temperature fits these {len(truth)} clips: every clip is right, and the colder the better; fit on"
            " others"
        )
    logits = _logits(probabilities)
    clips, edge = np.arange(len(truth)), np.log(HOTTEST)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[clips, outcome.true].mean())

    # In 1/T the loss is convex, so between the bounds it has one minimum.
    best = float(minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-7}).x)  # pyright: ignore
    if edge - abs(best) < 1e-3:
        cause = "the colder the better" if best < 0 else "the scores don't go with the truth"
        raise InvalidInput(
            f"no temperature from {1 / HOTTEST:g} to {HOTTEST:g} fits these {len(truth)} clips: {cause}; fit on others"
        )
    return float(np.exp(best))


def apply_temperature(
    probabilities: Float[np.ndarray, "clips labels"], temperature: float
) -> Float[np.ndarray, "clips labels"]:
    """softmax(log(probabilities) / temperature). The order of a clip's labels stays as it is."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def _logits(probabilities: Float[np.ndarray, "clips labels"]) -> Float[np.ndarray, "clips labels"]:
    return np.log(np.maximum(probabilities.astype(np.float64), LEAST))


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
    """Fit a temperature on one run's clips (of a split, or all) and apply it to another's, or to another split's.

    `group_by` names the column of the intervals' groups. Raises InvalidInput where a clip is in both parts, by its id;
    where labels differ; where the part to fit on has no clip with a label and a score; for a split or column there is
    not; and what `fit_temperature` raises.
    """
    if set(fit_run.labels) != set(apply_run.labels):
        raise InvalidInput(
            f"{fit_run.name} has the labels {', '.join(fit_run.labels)} and {apply_run.name} has"
            f" {', '.join(apply_run.labels)}; a temperature holds for one checkpoint"
        )
    fit_part, apply_part = _part(fit_run, fit_split), _part(apply_run, apply_split)
    fitted = set(_at(fit_run.ids, fit_part))
    both = [each for each in _at(apply_run.ids, apply_part) if each in fitted]
    if both:
        raise InvalidInput(
            f"{len(both)} clips are in both parts ({_some(both)}): a temperature is not measured on what it was fitted"
            " on; name splits, or runs, that share no clip"
        )
    fit = _measurable(fit_run, fit_part)
    if not fit.any():
        raise InvalidInput(
            f"{_named(fit_run, fit_split)} has no clip with a label and scores; fit where there are some"
        )
    temperature = fit_temperature(_at(fit_run.truth, fit), fit_run.probabilities[fit], fit_run.labels)

    scores = np.full_like(apply_run.probabilities, np.nan)
    scored = apply_part & apply_run.scored
    scores[scored] = apply_temperature(apply_run.probabilities[scored], temperature)
    measured = _measurable(apply_run, apply_part)

    def metrics(probabilities: np.ndarray) -> dict[str, Any] | None:
        if not measured.any():
            return None
        truth = _at(apply_run.truth, measured)
        groups = None if group_by is None else _at(apply_run.column(group_by), measured)
        return measure(truth, probabilities[measured], apply_run.labels, groups=groups, resamples=resamples, seed=seed)

    columns = {"id": pa.array(_at(apply_run.ids, apply_part))}
    for label, column in zip(apply_run.labels, scores[apply_part].T, strict=True):
        columns[SCORE_PREFIX + label] = pa.array(column.astype(np.float32), from_pandas=True)  # NaN becomes null
    return Calibration(
        temperature,
        _described(fit_run, fit_split, fit_part, fit),
        _described(apply_run, apply_split, apply_part, measured),
        metrics(apply_run.probabilities),
        metrics(scores),
        pa.table(columns),
    )


def write_calibration(calibration: Calibration, path: str) -> None:
    """Write calibration.json and calibrated.parquet into a folder."""
    folder = Folder.open(path)
    folder.make()
    record = {
        "temperature": calibration.temperature,
        "fitted_on": calibration.fitted_on,
        "applied_to": calibration.applied_to,
        "before": calibration.before,
        "after": calibration.after,
    }
    table = io.BytesIO()
    pq.write_table(calibration.table, table)
    folder.write(CALIBRATED, table.getvalue())
    folder.write(RECORD, (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode())


def render_calibration(calibration: Calibration) -> str:
    """The temperature and the metrics before and after, for a terminal."""
    lines = [f"Temperature {calibration.temperature:.4f}"]
    for verb, part in (("fitted on", calibration.fitted_on), ("applied to", calibration.applied_to)):
        split = "" if part["split"] is None else f", split {part['split']}"
        lines.append(f"  {verb} {part['run']}{split}: {part['clips']} clips, {part['left_out']} left out")
    if calibration.before is None or calibration.after is None:
        return "\n".join([*lines, "No clip it was applied to has a label: nothing to measure."])
    lines += ["", f"{'':<10}{'before':>8}  {'95 % interval':<18}{'after':>8}  95 % interval"]
    for name in SHOWN:
        before, after = (_cell(metrics, name) for metrics in (calibration.before, calibration.after))
        lines.append(f"{name:<10}{before:<28}{after}".rstrip())
    return "\n".join(lines)


def _cell(metrics: dict[str, Any], name: str) -> str:
    ends = metrics["intervals"].get(name)
    return f"{metrics[name]:>8.4f}" + (f"  {ends[0]:.4f} to {ends[1]:.4f}" if ends else "")


def _part(run: EvaluationRun, split: str | None) -> Bool[np.ndarray, " clips"]:
    """Which clips of a run are in the split; all where none is named."""
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
    """Which clips of the part have a label and scores."""
    return part & run.scored & np.array([label is not None for label in run.truth], bool)


def _at(values: Sequence[Any], where: Bool[np.ndarray, " clips"]) -> list[Any]:
    return [values[place] for place in np.flatnonzero(where).tolist()]


def _described(run: EvaluationRun, split: str | None, part: np.ndarray, used: np.ndarray) -> dict[str, Any]:
    return {"run": run.name, "split": split, "clips": int(used.sum()), "left_out": int((part & ~used).sum())}


def _named(run: EvaluationRun, split: str | None) -> str:
    return run.name if split is None else f"the split {split} of {run.name}"


def _some(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
