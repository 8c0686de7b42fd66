"""Temperature scaling: a known temperature is found again, and never measured on what it was fitted on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from speech_emotion_jax import InvalidInput
from speech_emotion_jax.evaluation.calibration import (
    apply_temperature,
    calibrate,
    fit_temperature,
    render_calibration,
    write_calibration,
)
from speech_emotion_jax.evaluation.metrics import measure
from speech_emotion_jax.evaluation.results import EvaluationRun

from .support.examples import examples

LABELS = ("angry", "happy", "sad")


def scores(seed: int, clips: int, temperature: float = 1.0) -> tuple[list[str], np.ndarray]:
    """(truth, probabilities) of a checkpoint which is calibrated once its scores are taken at `temperature`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(clips, len(LABELS)))
    drawn = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((clips, 1))).sum(axis=1)
    truth = [LABELS[min(number, len(LABELS) - 1)] for number in drawn]
    return truth, softmax(temperature * logits, axis=1).astype(np.float32)


def run(
    truth: list[str | None], probabilities: np.ndarray, *, name: str = "run", first: int = 0, **columns: list[Any]
) -> EvaluationRun:
    """A finished run; a clip whose scores are NaN has an error."""
    table = {"name": [f"clip {first + number}" for number in range(len(truth))], "label": truth, **columns}
    for label, column in zip(LABELS, probabilities.T, strict=True):
        table[f"score_{label}"] = pa.array(column.astype(np.float32), from_pandas=True)
    table["error"] = pa.array(["broken" if np.isnan(row).any() else None for row in probabilities], pa.string())
    fields = {"id": "name", "label": "label"} | ({"split": "part"} if "part" in columns else {})
    record = {"schema": 1, "labels": list(LABELS), "columns": fields, "label_map": {}, "settings": {}}
    return EvaluationRun(name, record, pa.table(table))


def written(made: EvaluationRun, folder: Path) -> EvaluationRun:
    """The same, from disk."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(made.record), encoding="utf-8")
    pq.write_table(made.table, folder / "predictions.parquet")
    return EvaluationRun.read(str(folder))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 7.0])
def test_a_known_temperature_is_found(temperature: float):
    truth, probabilities = scores(0, 20_000, temperature)
    assert fit_temperature(truth, probabilities, LABELS) == pytest.approx(temperature, rel=0.04)


def test_the_temperature_is_the_least_loss():
    truth, probabilities = scores(1, 300, 3.0)
    best = fit_temperature(truth, probabilities, LABELS)

    def loss(temperature: float) -> float:
        return measure(truth, apply_temperature(probabilities, temperature), LABELS, resamples=1)["log_loss"]

    assert loss(best) < min(loss(best * 0.99), loss(best * 1.01), loss(1.0))


@settings(max_examples=examples(40))
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.05, 50))
def test_no_label_changes(seed: int, temperature: float):
    truth, probabilities = scores(seed, 30)
    calibrated = apply_temperature(probabilities, temperature)
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(30))
    assert (calibrated.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    before, after = (measure(truth, each, LABELS, resamples=1) for each in (probabilities, calibrated))
    for name in ("accuracy", "uar", "macro_f1", "confusion_matrix"):
        assert before[name] == after[name]


def test_temperature_1_changes_nothing():
    _, probabilities = scores(2, 50)
    assert apply_temperature(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-6)


def test_a_score_of_zero_is_no_infinity():
    probabilities = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert np.isfinite(apply_temperature(probabilities, 3.0)).all()
    assert 1 < fit_temperature(["angry", "sad", "happy"], probabilities, LABELS) < 100


@pytest.mark.parametrize(
    ("truth", "probabilities", "said"),
    [
        (["angry"] * 3, np.array([[0.8, 0.1, 0.1]] * 3), "every clip is right"),
        (["sad"] * 3, np.array([[0.8, 0.15, 0.05]] * 3), "don't match the truth"),
        (["sad"] * 3, np.array([[0.8, 0.9, 0.5]] * 3), "sum to 1"),
    ],
)
def test_where_no_temperature_fits_it_is_said(truth: list[str], probabilities: np.ndarray, said: str):
    with pytest.raises(InvalidInput, match=said):
        fit_temperature(truth, probabilities, LABELS)


def test_one_split_calibrates_another(tmp_path: Path):
    truth, probabilities = scores(3, 3000, 3.0)
    probabilities[[0, 2999]] = np.nan
    labels: list[str | None] = [*truth[:2998], None, truth[2999]]
    made = run(labels, probabilities, part=["dev"] * 2000 + ["test"] * 1000, who=[str(n // 5) for n in range(3000)])
    made = written(made, tmp_path / "run")
    done = calibrate(made, made, fit_split="dev", apply_split="test", group_by="who", resamples=50)
    assert done.temperature == fit_temperature(truth[1:2000], probabilities[1:2000], LABELS)
    assert done.fitted_on == {"run": made.name, "split": "dev", "clips": 1999, "left_out": 1}
    assert done.applied_to == {"run": made.name, "split": "test", "clips": 998, "left_out": 2}
    assert done.before is not None
    assert done.after is not None
    assert done.before["groups"] == 200
    assert done.after["accuracy"] == done.before["accuracy"]
    assert done.after["log_loss"] < done.before["log_loss"]
    assert done.after["ece"] < done.before["ece"] / 2

    write_calibration(done, str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    assert record["temperature"] == done.temperature
    assert record["after"] == done.after
    table = pq.read_table(tmp_path / "out" / "calibrated.parquet")
    assert table.column_names == ["id", "score_angry", "score_happy", "score_sad"]
    assert table.column("id").to_pylist() == [f"clip {number}" for number in range(2000, 3000)]
    assert table.column("score_angry").null_count == 1
    [middle] = table.slice(500, 1).select([1, 2, 3]).to_pylist()
    expected = apply_temperature(probabilities[2500:2501], done.temperature)[0]
    assert list(middle.values()) == pytest.approx(expected, abs=1e-6)

    text = render_calibration(done)
    assert f"Temperature {done.temperature:.4f}" in text
    assert "split dev: 1999 clips, 1 left out" in text
    [line] = [line for line in text.splitlines() if line.startswith("log_loss")]
    assert f"{done.before['log_loss']:.4f}" in line
    assert f"{done.after['log_loss']:.4f}" in line


def test_clips_without_labels_are_calibrated_and_not_measured():
    truth, probabilities = scores(4, 200, 2.0)
    done = calibrate(run([*truth], probabilities), run([None] * 200, probabilities, name="other", first=200))
    assert (done.before, done.after) == (None, None)
    assert done.table.num_rows == 200
    assert "nothing was measured" in render_calibration(done)


def test_the_same_clips_are_refused():
    truth, probabilities = scores(5, 40)
    made = run([*truth], probabilities, part=["dev"] * 20 + ["test"] * 20)
    overlapping: list[dict[str, Any]] = [
        {},
        {"fit_split": "dev", "apply_split": "dev"},
        {"fit_split": "dev"},
        {"apply_split": "test"},
    ]
    for how in overlapping:
        with pytest.raises(InvalidInput, match=r"(20|40) clips are in both selections"):
            calibrate(made, made, **how)
    with pytest.raises(InvalidInput, match="40 clips are in both selections"):  # under another name
        calibrate(made, run([*truth], probabilities, name="again"))


def test_what_can_not_be_calibrated_is_refused():
    truth, probabilities = scores(6, 40)
    made = run([*truth], probabilities)
    bare = run([None] * 40, probabilities, name="bare", first=40)
    with pytest.raises(InvalidInput, match="bare has no clip with a label"):
        calibrate(bare, made)
    with pytest.raises(InvalidInput, match="no splits"):
        calibrate(made, bare, fit_split="dev")
    with pytest.raises(InvalidInput, match="no split 'dav'; there are dev"):
        calibrate(run([*truth], probabilities, part=["dev"] * 40), bare, fit_split="dav")
    with pytest.raises(InvalidInput, match="no column 'speaker'"):
        calibrate(made, run([*truth], probabilities, first=40), group_by="speaker")
    other = EvaluationRun("other", {**bare.record, "labels": ["angry", "happy"]}, bare.table)
    with pytest.raises(InvalidInput, match="angry, happy, sad and other has angry, happy;"):
        calibrate(made, other)
