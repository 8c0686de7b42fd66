"""Metrics against scikit-learn and worked examples; intervals against what they promise."""

import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as reference

from scripts.interval_coverage import World, coverage
from speech_emotion_jax import InvalidInput
from speech_emotion_jax.evaluation.metrics import LabelledScores, bootstrap, group_codes, measure, percentile_interval

from .support.examples import examples

ES = ("anger", "disgust", "fear", "joy", "neutral", "sadness")
EXACT = {"rel": 0, "abs": 1e-12}


def predictions(seed: int, clips: int, count: int, occurring: int, scale: float = 2.0) -> tuple[Any, Any, Any]:
    """(truth, probabilities, labels): random, once float32; only the first `occurring` labels are true of clips."""
    rng = np.random.default_rng(seed)
    labels = [f"label {number}" for number in rng.permutation(count)]
    probabilities = softmax(scale * rng.normal(size=(clips, count)), axis=1).astype(np.float32).astype(np.float64)
    return [labels[number] for number in rng.integers(occurring, size=clips)], probabilities, labels


def one_hot(*tops: int, count: int = 3) -> np.ndarray:
    return np.eye(count)[list(tops)]


SHAPES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 8)).flatmap(
    lambda drawn: st.tuples(*map(st.just, drawn), st.integers(1, drawn[2]))
)


@settings(max_examples=examples(60))
@given(shape=SHAPES, scale=st.sampled_from([0.1, 2.0, 40.0]))
def test_metrics_are_scikit_learns(shape: tuple[int, int, int, int], scale: float):
    truth, probabilities, labels = predictions(*shape, scale=scale)
    measured = measure(truth, probabilities, labels, resamples=2)
    tops = [labels[top] for top in probabilities.argmax(axis=1)]
    present = sorted(set(truth))
    assert measured["accuracy"] == pytest.approx(reference.accuracy_score(truth, tops), **EXACT)
    assert measured["uar"] == measured["macro_recall"]
    for kind in ("weighted", "macro"):
        for name, score in (("precision", "precision_score"), ("recall", "recall_score"), ("f1", "f1_score")):
            theirs = getattr(reference, score)(truth, tops, labels=present, average=kind, zero_division=0)
            assert measured[f"{kind}_{name}"] == pytest.approx(theirs, **EXACT)
    for name, score in (("precision", "precision_score"), ("recall", "recall_score"), ("f1", "f1_score")):
        theirs = getattr(reference, score)(truth, tops, labels=labels, average=None, zero_division=0)
        assert [each[name] for each in measured["per_class"].values()] == pytest.approx(theirs, **EXACT)
    counts = reference.confusion_matrix(truth, tops, labels=labels)
    assert measured["confusion_matrix"] == {"labels": labels, "counts": counts.tolist()}
    order = np.argsort(labels)  # scikit-learn wants its columns in the alphabet's order
    sums_to_1 = (probabilities / probabilities.sum(axis=1, keepdims=True))[:, order]
    theirs = reference.log_loss(truth, sums_to_1, labels=[labels[number] for number in order])
    assert measured["log_loss"] == pytest.approx(theirs, **EXACT)
    assert measured["truth_labels"] == [label for label in labels if label in present]
    assert measured["clips"] == len(truth)
    json.dumps(measured, allow_nan=False)


def test_uar_is_balanced_accuracy_where_no_label_is_only_predicted():
    truth, probabilities, labels = predictions(3, 400, 6, 6)
    tops = [labels[top] for top in probabilities.argmax(axis=1)]
    uar = measure(truth, probabilities, labels, resamples=2)["uar"]
    assert uar == pytest.approx(reference.balanced_accuracy_score(truth, tops), **EXACT)


def test_a_label_that_is_predicted_and_never_true_is_in_no_average():
    measured = measure(["a", "a", "b", "b"], one_hot(0, 2, 1, 1), ["a", "b", "c"], resamples=2)
    assert measured["accuracy"] == 0.75
    assert measured["uar"] == 0.75  # (1/2 + 1) / 2
    assert measured["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert measured["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0, "predicted": 1}
    assert measured["labels"] == ["a", "b", "c"]
    assert measured["truth_labels"] == ["a", "b"]
    assert measured["confusion_matrix"]["counts"] == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]


def test_ties_go_to_the_checkpoints_first():
    measured = measure(["b"], np.array([[0.2, 0.4, 0.4]]), ["c", "b", "a"], resamples=2)
    assert measured["accuracy"] == 1


def test_ece_of_a_worked_example():
    # Confidences 0.95 (right), 0.95 (wrong), 0.6 (right), 0.55 (right). 0.6 = 9/15 closes the bin (8/15, 9/15], where
    # 0.55 is too. 2/4 * |1/2 - 0.95| + 2/4 * |1 - 0.575|
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.55, 0.45]])
    measured = measure(["a", "b", "a", "a"], probabilities, ["a", "b"], resamples=2)
    assert measured["ece"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.425)
    bins = measured["reliability"]
    assert bins["edges"] == pytest.approx([number / 15 for number in range(16)])
    assert {place: n for place, n in enumerate(bins["count"]) if n} == {8: 2, 14: 2}
    assert bins["confidence"][8] == pytest.approx(0.575)
    assert (bins["accuracy"][8], bins["accuracy"][14], bins["accuracy"][0]) == (1, 0.5, None)
    assert bins["confidence"][0] is None


def test_labels_that_do_not_exclude_one_another_have_no_log_loss():
    measured = measure(["a", "b"], np.array([[0.9, 0.8], [0.1, 0.3]]), ["a", "b"])
    assert measured["log_loss"] is None
    assert "log_loss" not in measured["intervals"]
    assert measured["accuracy"] == 1
    assert measured["ece"] == pytest.approx((0.1 + 0.7) / 2)


@pytest.mark.parametrize(
    ("truth", "tops", "accuracy"),
    [(["a"], [0], 1), (["a"], [1], 0), (["a"] * 4, [0] * 4, 1), (["a"] * 4, [1] * 4, 0), (["a", "b"], [1, 0], 0)],
)
def test_degenerate_input_is_measured_without_a_warning(truth: list[str], tops: list[int], accuracy: float):
    for groups in (None, list(range(len(truth))), ["one"] * len(truth), [None] * len(truth)):
        measured = measure(truth, one_hot(*tops), ["a", "b", "c"], groups=groups, resamples=20)
        assert (measured["accuracy"], measured["uar"]) == (accuracy, accuracy)
        assert (measured["intervals"] == {}) == (len(truth) == 1 or groups == ["one"] * len(truth))
        json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "probabilities", "labels", "said"),
    [
        ([], np.empty((0, 2)), ["a", "b"], "no clip"),
        (["a", "calm", "bored"], one_hot(0, 1, 1, count=2), ["a", "b"], "bored, calm"),
        (["a"], one_hot(0, 1, count=2), ["a", "b"], "fit"),
        (["a"], np.array([[0.5, np.nan]]), ["a", "b"], "not between 0 and 1"),
        (["a"], np.array([[-0.5, 1.5]]), ["a", "b"], "not between 0 and 1"),
        (["a"], np.ones((1, 1)), ["a"], "two"),
    ],
)
def test_what_can_not_be_measured_is_refused(truth: list[str], probabilities: np.ndarray, labels: list[str], said: str):
    with pytest.raises(InvalidInput, match=said):
        measure(truth, probabilities, labels)


def test_groups_of_another_number_are_refused():
    with pytest.raises(InvalidInput, match="1 groups"):
        measure(["a", "b"], one_hot(0, 1), ["a", "b", "c"], groups=["x"])


@pytest.mark.parametrize("grouped", [False, True])
def test_a_resample_has_the_metrics_of_the_clips_drawn(grouped: bool):
    truth, probabilities, labels = predictions(5, 40, 4, 3)
    groups = [number // 3 for number in range(40)] if grouped else list(range(40))
    codes = group_codes(groups, 40)
    drawn = bootstrap(LabelledScores.of(truth, probabilities, labels), codes, 25, seed=9).metrics
    rng = np.random.default_rng(9)
    for number in range(25):
        chosen = rng.integers(max(groups) + 1, size=max(groups) + 1)
        clips = [clip for group in chosen for clip in range(40) if groups[clip] == group]
        theirs = measure([truth[clip] for clip in clips], probabilities[clips], labels, resamples=1)
        for name, values in drawn.items():
            assert values[number] == pytest.approx(theirs[name], **EXACT)
    assert drawn.keys() == {
        *("accuracy", "uar", "macro_f1", "weighted_f1", "weighted_precision", "weighted_recall", "ece", "log_loss")
    }


def test_the_interval_of_a_worked_example():
    """Two groups, one all right, one all wrong: accuracy of a resample is 0, 1/2 or 1."""
    truth, tops = ["a"] * 6, [0, 0, 0, 1, 1, 1]
    by_group = measure(truth, one_hot(*tops), ["a", "b", "c"], groups=list("xxxyyy"))
    assert by_group["intervals"]["accuracy"] == [0, 1]
    assert by_group["groups"] == 2


def test_groups_of_identical_clips_make_intervals_wider():
    truth, probabilities, labels = predictions(1, 100, 3, 3)
    copied = [label for label in truth for _ in range(9)], np.repeat(probabilities, 9, axis=0), labels
    groups = [number // 9 for number in range(900)]

    def widths(**how: Any) -> dict[str, float]:
        return {name: high - low for name, (low, high) in measure(*copied, **how)["intervals"].items()}

    alone, together = widths(), widths(groups=groups)
    once = measure(truth, probabilities, labels)["intervals"]
    for name in ("accuracy", "uar", "macro_f1", "weighted_f1", "log_loss"):
        assert 2 < together[name] / alone[name] < 4.5  # 3: of nine clips there is one
        low, high = once[name]
        assert together[name] == pytest.approx(high - low, rel=1e-9)


def test_clips_without_a_group_are_their_own():
    assert group_codes(["x", None, "x", None, "", "y"], 6).tolist() == [0, 1, 0, 2, 3, 4]


def test_the_seed_decides():
    sample = predictions(2, 50, 3, 3)
    assert measure(*sample, seed=4) == measure(*sample, seed=4)
    assert measure(*sample, seed=4)["intervals"] != measure(*sample, seed=5)["intervals"]


@pytest.mark.parametrize(
    ("groups", "right", "interval"),
    [(None, True, [0.6097, 1]), (None, False, [0, 0.3903]), (["a", "a", "b", "b", "c", "c"], True, [0.4385, 1])],
)
def test_six_of_six_are_not_certain(groups: list[str] | None, right: bool, interval: list[float]):
    truth = ["joy", "fear"] * 3
    scores = np.array([[0.9, 0.1], [0.1, 0.9]] * 3, np.float32)
    measured = measure(truth, scores if right else scores[:, ::-1], ["joy", "fear"], groups=groups)["intervals"]
    for name in ("accuracy", "uar", "macro_f1", "weighted_precision"):
        assert measured[name] == pytest.approx(interval, abs=1e-4)


@pytest.mark.slow
def test_the_interval_holds_95_of_100():
    low, high = percentile_interval(np.arange(1001.0))
    assert (low, high) == pytest.approx((25, 975))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "by_group"),
    [
        pytest.param(World(300, 1), False, id="calibrated"),
        pytest.param(World(300, 1, sharpness=2), False, id="too-sure"),
        pytest.param(World(60, 5, sharpness=1.5, shared=1.5), True, id="by-group"),
    ],
)
def test_intervals_cover_as_they_say(world: World, by_group: bool):
    shares = coverage(world, by_group=by_group, sets=400, resamples=300)
    # Of 2,000 sets scripts/interval_coverage.py gives these two 90 to 96 %, the others 94 %; 400 sets waver by ± 2.5.
    least = dict.fromkeys(shares, 0.91) | {"ece": 0.88, "weighted_precision": 0.88}
    assert {name: share for name, share in shares.items() if not least[name] <= share <= 0.98} == {}


@pytest.mark.slow
def test_intervals_that_do_not_know_the_groups_cover_too_little():
    shares = coverage(World(30, 10, shared=2.0), by_group=False, sets=150, resamples=200)
    assert shares["accuracy"] < 0.9


@pytest.mark.slow
def test_many_clips_take_seconds_and_little_memory():
    truth, probabilities, labels = predictions(8, 100_000, 6, 6)
    outcome, codes = LabelledScores.of(truth, probabilities, labels), np.arange(100_000)
    tracemalloc.start()
    started = time.process_time()
    bootstrap(outcome, codes, 200)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5  # a fifth of the usual resamples
    assert peak < 20e6
