"""Two runs clip by clip: worked examples, and what must hold whichever runs are compared."""

import csv
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
from scipy.stats import binom

from speech_emotion_jax import InvalidInput
from speech_emotion_jax.evaluation.comparison import COMPARISON_METRICS, compare, render_comparison, write_comparison
from speech_emotion_jax.evaluation.metrics import measure
from speech_emotion_jax.evaluation.results import EvaluationRun

from .support.examples import examples

LABELS = ("angry", "happy", "sad")


def run(
    truth: list[str | None],
    probabilities: np.ndarray,
    *,
    name: str = "A",
    labels: tuple[str, ...] = LABELS,
    settings: dict[str, Any] | None = None,
    **columns: list[Any],
) -> EvaluationRun:
    """A finished run; a clip whose scores are NaN has an error."""
    table = {"name": [f"clip {number}" for number in range(len(truth))], "label": truth, **columns}
    for label, column in zip(labels, probabilities.T, strict=True):
        table[f"score_{label}"] = pa.array(column.astype(np.float32), from_pandas=True)
    table["error"] = pa.array(["broken" if np.isnan(row).any() else None for row in probabilities], pa.string())
    fields = {"id": "name"} if set(truth) == {None} else {"id": "name", "label": "label"}
    record = {"schema": 1, "labels": list(labels), "columns": fields, "label_map": {}, "settings": settings or {}}
    return EvaluationRun(name, record, pa.table(table))


def rearranged(made: EvaluationRun, order: list[int]) -> EvaluationRun:
    return EvaluationRun(made.name, made.record, made.table.take(order))


def scores(seed: int, clips: int, right: float = 1.0) -> tuple[list[str | None], np.ndarray]:
    """(truth, probabilities); the truth is the same for all of a size."""
    true = np.random.default_rng(clips).integers(len(LABELS), size=clips)
    logits = np.random.default_rng(seed).normal(size=(clips, len(LABELS))) + right * np.eye(len(LABELS))[true]
    return [LABELS[number] for number in true], softmax(logits, axis=1)


def answers(*labels: str, score: float = 0.8) -> np.ndarray:
    """Scores of clips that get these labels."""
    rest = (1 - score) / (len(LABELS) - 1)
    return np.array([[score if each == label else rest for each in LABELS] for label in labels])


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**31), clips=st.integers(1, 40), grouped=st.booleans())
def test_the_other_way_round_the_signs_change(seed: int, clips: int, grouped: bool):
    who: dict[str, Any] = {"who": [str(number // 3) for number in range(clips)]} if grouped else {}
    a, b = run(*scores(seed, clips), **who), run(*scores(seed + 1, clips, right=2), name="B", **who)
    how = {"group_by": "who" if grouped else None, "resamples": 20}
    there, back = compare(a, b, **how), compare(b, a, **how)
    assert there.metrics is not None
    assert back.metrics is not None
    for name in COMPARISON_METRICS:
        one, other = there.metrics[name], back.metrics[name]
        assert (one["a"], one["b"], one["difference"]) == (other["b"], other["a"], -other["difference"])
        if one["interval"] is None:
            assert other["interval"] is None
        else:
            assert one["interval"] == pytest.approx([-end for end in reversed(other["interval"])], abs=1e-12)
    assert there.mcnemar is not None
    assert back.mcnemar is not None
    assert there.mcnemar["p"] == back.mcnemar["p"]
    assert there.mcnemar["only_a_right"] == back.mcnemar["only_b_right"]
    assert there.agreement == back.agreement
    assert len(there.disagreements) == len(back.disagreements)


def test_a_run_does_not_differ_from_itself():
    made = run(*scores(0, 60))
    done = compare(made, made, resamples=50)
    assert done.metrics is not None
    for values in done.metrics.values():
        assert (values["difference"], values["interval"]) == (0, [0, 0])
    assert done.mcnemar == {"only_a_right": 0, "only_b_right": 0, "p": 1}
    assert (done.agreement, done.disagreements, done.settings) == (1, [], {})
    assert done.kappa == pytest.approx(1)


def test_values_are_those_of_each_runs_own_metrics():
    truth, of_a = scores(1, 80)
    _, of_b = scores(2, 80)
    done = compare(run(truth, of_a), run(truth, of_b, name="B"), resamples=20)
    assert done.metrics is not None
    for side, probabilities in (("a", of_a), ("b", of_b)):
        alone = measure([*map(str, truth)], probabilities.astype(np.float32), LABELS, resamples=1)
        for name in COMPARISON_METRICS:
            assert done.metrics[name][side] == pytest.approx(alone[name], abs=1e-12)


def test_pairing_makes_the_interval_narrow():
    """B is A with twenty more clips right; unpaired, the noise of all 200 would count."""
    truth, probabilities = scores(3, 200)
    better = probabilities.copy()
    wrong = [n for n in range(200) if LABELS[probabilities[n].argmax()] != truth[n]][:20]
    better[wrong] = answers(*[str(truth[number]) for number in wrong])
    done = compare(run(truth, probabilities), run(truth, better, name="B"))
    assert done.metrics is not None
    accuracy = done.metrics["accuracy"]
    assert accuracy["difference"] == pytest.approx(0.1)
    low, high = accuracy["interval"]
    # Twenty of 200 clips gained: 0.1 ± 1.96 * sqrt(0.1 * 0.9 / 200) = 0.1 ± 0.042
    assert (low, high) == pytest.approx((0.058, 0.142), abs=0.012)


def test_groups_widen_the_interval():
    truth, of_a = scores(4, 60)
    _, of_b = scores(5, 60, right=1.5)
    nine = np.repeat(np.arange(60), 9)
    who: dict[str, Any] = {"who": [str(number) for number in nine]}
    a = run([truth[n] for n in nine], of_a[nine], **who)
    b = run([truth[n] for n in nine], of_b[nine], name="B", **who)
    widths = []
    for group_by in (None, "who"):
        metrics = compare(a, b, group_by=group_by, resamples=400).metrics
        assert metrics is not None
        low, high = metrics["accuracy"]["interval"]
        widths.append(high - low)
    assert 2.4 < widths[1] / widths[0] < 3.6  # 3: of nine clips there is one


def test_a_worked_example(tmp_path: Path):
    truth: list[str | None] = ["angry", "angry", "happy", "happy", "sad", "sad", "sad", "sad"]
    of_a = answers("angry", "happy", "happy", "angry", "sad", "happy", "sad", "sad")
    of_b = answers("angry", "angry", "sad", "angry", "happy", "angry", "sad", "sad", score=0.6)
    of_b[4] = [0.02, 0.95, 0.03]
    of_b[7] = np.nan
    runs = []
    for name, scored, batch in (("A", of_a, 8), ("B", of_b, 16)):
        how = {"mode": "audio", "batch": {"size": batch, "seconds": 30}} | (
            {"precision": "float32"} if name == "B" else {}
        )
        made = run(truth, scored, name=name, settings=how)
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(made.record), encoding="utf-8")
        pq.write_table(made.table, tmp_path / name / "predictions.parquet")
        runs.append(EvaluationRun.read(str(tmp_path / name)))
    done = compare(*runs, resamples=50)
    assert (done.clips, done.left_out, done.labelled) == (7, 1, 7)
    assert done.mcnemar == {"only_a_right": 2, "only_b_right": 1, "p": 1.0}  # two of three, two-sided
    assert done.metrics is not None
    assert done.metrics["accuracy"]["difference"] == pytest.approx(3 / 7 - 4 / 7)
    assert done.agreement == pytest.approx(3 / 7)
    # A gives angry 2, happy 3, sad 2, and B angry 4, happy 1, sad 2.
    chance = (2 * 4 + 3 * 1 + 2 * 2) / 49
    assert done.kappa == pytest.approx((3 / 7 - chance) / (1 - chance))
    assert [(row["kind"], row["id"]) for row in done.disagreements] == [
        ("only A right", "clip 2"),  # 0.8 and 0.6: further apart than
        ("only A right", "clip 4"),  # 0.8 and 0.95
        ("only B right", "clip 1"),
        ("both wrong, differently", "clip 5"),
    ]
    assert done.settings == {"batch.size": [8, 16], "precision": [None, "float32"]}

    write_comparison(done, str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert record["metrics"] == done.metrics
    assert "disagreements" not in record
    with open(tmp_path / "out" / "disagreements.csv", encoding="utf-8", newline="") as file:
        first, *rest = csv.DictReader(file)
    assert len(rest) == 3
    assert (first["kind"], first["truth"], first["a_label"], first["b_label"]) == (
        "only A right",
        "happy",
        "happy",
        "sad",
    )
    assert float(first["b_score"]) == pytest.approx(0.6)

    text = render_comparison(done)
    assert "7 clips scored by both, 7 with a label; 1 left out" in text
    assert "McNemar: only A right 2, only B right 1, exact p 1" in text
    assert "Setting batch.size: A 8, B 16" in text
    assert "Only A right: 2 clips\n  clip 2  true happy  A happy 0.800, B sad 0.600\n" in text


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (1, 9), (3, 12), (6, 6), (0, 20)])
def test_mcnemar_is_the_binomials_two_tails(only_a: int, only_b: int):
    truth: list[str | None] = ["sad"] * (only_a + only_b)
    a = answers(*["sad"] * only_a, *["happy"] * only_b)
    b = answers(*["happy"] * only_a, *["sad"] * only_b)
    done = compare(run(truth, a), run(truth, b, name="B"), resamples=5)
    tail = float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))
    assert done.mcnemar is not None
    assert done.mcnemar["p"] == pytest.approx(min(1, 2 * tail))


def test_the_order_of_clips_and_labels_does_not_count():
    truth, of_a = scores(6, 50)
    _, of_b = scores(7, 50)
    a, b = run(truth, of_a), run(truth, of_b, name="B")
    expected = compare(a, b, resamples=20)
    order = np.random.default_rng(0).permutation(50).tolist()
    assert compare(a, rearranged(b, order), resamples=20) == expected
    turned = run(truth, of_b[:, ::-1], name="B", labels=LABELS[::-1])
    assert compare(a, turned, resamples=20).mcnemar == expected.mcnemar
    assert compare(a, turned, resamples=20).disagreements == expected.disagreements


def test_without_truth_there_is_agreement_alone():
    a, b = run([None] * 2, answers("sad", "happy")), run([None] * 2, answers("sad", "angry"), name="B")
    done = compare(a, b)
    assert (done.metrics, done.mcnemar, done.agreement) == (None, None, 0.5)
    assert [row["kind"] for row in done.disagreements] == ["no truth"]
    assert "McNemar" not in render_comparison(done)
    assert "Agreement 0.5000" in render_comparison(done)


def test_one_label_everywhere_has_no_kappa():
    made = run(["sad", "happy"], answers("sad", "sad"))
    done = compare(made, made, resamples=5)
    assert done.kappa is None
    assert "kappa undefined" in render_comparison(done)


def test_labels_that_do_not_exclude_one_another_are_compared_without_log_loss():
    a = run(["sad", "happy"], np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.9]]))
    metrics = compare(a, a, resamples=5).metrics
    assert metrics is not None
    assert "log_loss" not in metrics


def test_runs_that_do_not_match_are_refused():
    truth, probabilities = scores(8, 10)
    a = run(truth, probabilities)
    with pytest.raises(InvalidInput, match=r"10 only in A \(clip 0, clip 1, clip 2, …\), 1 only in B \(other\)"):
        compare(a, EvaluationRun("B", a.record, a.table.slice(0, 1).set_column(0, "name", [["other"]])))
    changed = [*truth]
    changed[3] = "happy" if truth[3] != "happy" else "sad"
    with pytest.raises(InvalidInput, match=rf"1 clips have different labels.*\(clip 3: {truth[3]} and {changed[3]}\)"):
        compare(a, run(changed, probabilities, name="B"))
    with pytest.raises(InvalidInput, match="angry, happy, sad and B has joy, rage, woe"):
        compare(a, run(truth, probabilities, name="B", labels=("joy", "rage", "woe")))
    with pytest.raises(InvalidInput, match="ids that occur twice"):
        compare(a, rearranged(a, [0, *range(10)]))
    with pytest.raises(InvalidInput, match="no clip that both scored"):
        compare(a, run(truth, np.full((10, 3), np.nan), name="B"))
    with pytest.raises(InvalidInput, match="no column 'speaker'"):
        compare(a, a, group_by="speaker")
