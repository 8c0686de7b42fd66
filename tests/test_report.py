"""The report of a run: what it says, that it is inert and self-contained, and that its figures show something."""

import base64
import re
import time
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.evaluation.metrics import measure, wilson_interval
from speech_emotion_jax.evaluation.report.clips import ReportClips
from speech_emotion_jax.evaluation.report.lines import summary
from speech_emotion_jax.evaluation.report.page import write_report
from speech_emotion_jax.evaluation.results import EvaluationRun
from speech_emotion_jax.runtime.plots import shorten
from speech_emotion_jax.runtime.storage import Folder

from .support.examples import examples

ES = ("anger", "disgust", "fear", "joy", "neutral", "sadness")
MEASURED = {"confusion", "per_class", "reliability", "by_length"}
THROUGHPUT = {"clips": 4, "audio_seconds": 7200.0, "seconds": 100.0, "compile_seconds": 20.0, "hosts": 1, "devices": 4}
PROVENANCE = {"command": "speech-emotion-jax evaluate --output 'a <b>'", "weights": {"model.safetensors": "ab12"}}


def made(
    scores: np.ndarray,
    truth: Sequence[str | None] | None,
    labels: Sequence[str] = ES,
    *,
    durations: Sequence[float | None] | None = None,
    errors: Mapping[int, str] | None = None,
    **columns: Sequence[Any],
) -> EvaluationRun:
    """A run with these scores, a row a clip."""
    clips, errors = len(scores), errors or {}
    bad = np.array([row in errors for row in range(clips)], bool)
    table = {"id": [f"clip{row}.wav" for row in range(clips)], "text": ["hola"] * clips, **columns}
    if truth is not None:
        table["label"] = pa.array(truth, pa.string())
    for number, label in enumerate(labels):
        table[f"score_{label}"] = pa.array(scores[:, number], pa.float32(), mask=bad)
    table["duration"] = pa.array(durations or [2.0 + row for row in range(clips)], pa.float64())
    table["truncated"] = pa.array([False] * clips, mask=bad)
    table["error"] = pa.array([errors.get(row) for row in range(clips)], pa.string())
    named = {"id": "id"} | ({} if truth is None else {"label": "label"})
    return EvaluationRun(
        "out/run", {"schema": 1, "labels": list(labels), "columns": named, "label_map": {}}, pa.table(table)
    )


def random_run(clips: int, *, labelled: bool = True, seed: int = 0, **more: Any) -> EvaluationRun:
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(ES), size=clips)
    scores = softmax(2 * (rng.normal(size=(clips, len(ES))) + 1.5 * np.eye(len(ES))[truth]), axis=1)
    return made(scores, [ES[each] for each in truth] if labelled else None, **more)


def measured(run: EvaluationRun, group_by: str | None = None) -> dict[str, Any]:
    rows = [row for row, truth in enumerate(run.truth) if truth is not None and run.scored[row]]
    column = None if group_by is None else run.column(group_by)
    groups = None if column is None else [column[row] for row in rows]
    truth = [truth for row in rows if (truth := run.truth[row]) is not None]
    return measure(truth, run.probabilities[rows], run.labels, groups=groups, resamples=50)


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.words += f" {data}"


def report(
    folder: Path,
    run: EvaluationRun,
    metrics: Mapping[str, Any] | None,
    group_by: str | None = None,
    throughput: Mapping[str, int | float] = THROUGHPUT,
) -> Page:
    write_report(
        Folder.open(folder), run, metrics, group_by=group_by, throughput=throughput, provenance=PROVENANCE
    )  # fmt: skip
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def drawn(folder: Path) -> set[str]:
    """The names of the PNGs, each of which shows something."""
    for path in folder.glob("*.png"):
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 0.02, path.name
    return {path.stem for path in folder.glob("*.png")}


def test_a_labelled_run(tmp_path: Path):
    clips = 300
    groups = [f"speaker {row % 35}" for row in range(clips)]
    errors = {0: "/data/clip0.wav is missing; check the path", 7: "/data/clip7.wav is missing; check the path"}
    run = random_run(clips, errors=errors, speaker=groups)
    metrics = measured(run, "speaker")
    page = report(tmp_path, run, metrics, "speaker")
    assert drawn(tmp_path) == MEASURED | {"by_group"}
    for name in ("accuracy", "uar", "macro_f1"):
        low, high = metrics["intervals"][name]
        assert f"{100 * metrics[name]:.1f} %" in page.words
        assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in page.words
    for name in ("weighted_f1", "ece"):
        assert f"{100 * metrics[name]:.1f} %" in page.words
    assert "300 clips 298 scored 2 errors 0 unlabelled" in page.words
    assert "2 clips (0.7 %) could not be scored" in page.words
    assert "2 … is missing; check the path" in page.words
    assert "whole groups of “speaker” (35) were drawn" in page.words
    for row in metrics["confusion_matrix"]["counts"]:
        assert " ".join(map(str, row)) in page.words
    for label, each in metrics["per_class"].items():
        numbers = " ".join(f"{100 * each[kind]:.1f} %" for kind in ("precision", "recall", "f1"))
        assert f"{label} {numbers} {each['support']} {each['predicted']}" in page.words
    assert "72.0 audio-seconds per second" in " ".join(
        f"{value} {name}" for name, value in re.findall(r"([a-z-]+ per second) ([\d.]+)", page.words)
    )
    assert "without compilation 90.0" in page.words
    assert "2.0 h" in page.words
    assert "command speech-emotion-jax evaluate --output 'a <b>'" in page.words
    assert "weights · model.safetensors ab12" in page.words
    assert "5 others" in page.words


def test_the_worst_clips_are_the_surest_wrong_ones(tmp_path: Path):
    scores = np.array([[0.9, 0.1], [0.3, 0.7], [0.95, 0.05], [0.8, 0.2], [0.25, 0.75]])
    run = made(scores, ["b", "a", "b", "a", None], ["a", "b"], text=["x " * 200, "dos", "tres", "cuatro", "cinco"])
    page = report(tmp_path, run, measured(run))
    table = page.words.partition("Worst-confused clips")[2].partition("Throughput")[0]
    assert re.findall(r"clip\d\.wav", table) == ["clip2.wav", "clip0.wav", "clip1.wav"]
    assert "clip2.wav b a 95.0 % 5.0 % 4.0 s tres" in table
    assert "x " * 200 not in table
    confusions = page.words.partition("Most frequent confusions")[2].partition("Worst")[0]
    assert "b a 2 100.0 % 92.5 %" in confusions
    assert "a b 1 50.0 % 70.0 %" in confusions
    assert "Fewer than 30 clips: a (2), b (2)" in page.words


def test_a_run_without_labels_has_no_metric(tmp_path: Path):
    run = random_run(120, labelled=False)
    page = report(tmp_path, run, None)
    assert drawn(tmp_path) == {"predicted", "scores", "by_length"}
    for name in ("Accuracy", "UAR", "F1", "calibration", "unlabelled", "onfus"):
        assert name not in page.words
    counts = np.bincount(run.probabilities.argmax(axis=1), minlength=len(ES))
    for label, count in zip(ES, counts, strict=True):
        assert f"{label} {count} {100 * count / 120:.1f} %" in page.words
    assert f"{100 * run.probabilities.max(axis=1).mean():.1f} % mean top score" in page.words


def test_one_clip(tmp_path: Path):
    run = made(np.array([[0.9, 0.1]]), ["a"], ["a", "b"])
    page = report(tmp_path, run, measured(run))
    assert drawn(tmp_path) == MEASURED
    assert "no interval" in page.words
    assert "No scored clip has the label b" in page.words
    assert "1 clip 1 scored 0 errors" in page.words


@pytest.mark.parametrize("clips", [0, 3])
def test_nothing_scored(tmp_path: Path, clips: int):
    run = random_run(clips, errors=dict.fromkeys(range(clips), "no such file"), durations=[None] * clips)
    page = report(tmp_path, run, None, throughput=dict.fromkeys(THROUGHPUT, 0))
    assert drawn(tmp_path) == set()
    assert "No clip was scored" in page.words
    assert f"{clips} clips 0 scored {clips} errors" in page.words


def test_one_label_scores_that_are_no_numbers_and_no_durations(tmp_path: Path):
    run = made(np.array([[1.0], [np.nan], [1.0]]), None, ["only"], durations=[None, 2.0, float("nan")])
    page = report(tmp_path, run, None)
    assert drawn(tmp_path) == {"predicted", "scores"}
    assert "1 clip got scores that are not numbers" in page.words


def test_a_group_column_that_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidInput, match="speaker"):
        report(tmp_path, random_run(5), None, "speaker")
    assert not list(tmp_path.iterdir())


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{$", "a\nb\0", "怒り😡", "{{ 7*7 }}"]
    ),
)


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(HOSTILE, min_size=2, max_size=3, unique=True), clip=HOSTILE, text=HOSTILE, group=HOSTILE)
def test_what_users_write_is_inert(tmp_path: Path, labels: list[str], clip: str, text: str, group: str):
    labels = [label or "empty" for label in labels]
    if len(set(labels)) < len(labels):
        return
    scores = np.eye(len(labels))[[0, 1, 0]]
    run = made(
        scores, [labels[1], labels[0], labels[0]], labels, id=[clip] * 3, text=[text] * 3, group=[group] * 3,
        errors={2: f"{clip} {text}"},
    )  # fmt: skip
    page = report(tmp_path, run, measured(run, "group"), "group")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "link"}
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(MEASURED) + 1
    assert all((source or "").startswith("data:image/png;base64,") for source in pictures)
    assert shorten(text, 160).split() == [] or " ".join(shorten(text, 160).split()) in page.words


def test_the_page_needs_nothing_else_and_holds_the_figures_in_words(tmp_path: Path):
    run = random_run(60)
    metrics = measured(run)
    page = report(tmp_path, run, metrics)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    assert all("href" not in attributes for _, attributes in page.tags)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    written = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert {base64.b64decode((each["src"] or "").partition(",")[2]) for each in pictures} == written
    recall = metrics["per_class"]["anger"]["recall"]
    assert f"anger {100 * recall:.1f}\xa0% right" in (pictures[0]["alt"] or "")
    assert all(re.search(r"\d", each["alt"] or "") for each in pictures)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path):
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        run = random_run(50, speaker=[f"s{row % 4}" for row in range(50)])
        report(folder, run, measured(run, "speaker"), "speaker")
        contents.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert contents[0] == contents[1]
    assert list(contents[0])[-1] == "report.html"


def test_lengths_are_bins_of_equal_count_and_accuracy_is_theirs(tmp_path: Path):
    right = np.array([True] * 25 + [False] * 25)  # the short ones
    run = made(np.eye(2)[np.where(right, 0, 1)], ["a"] * 50, ["a", "b"], durations=[*range(1, 51)])
    page = report(tmp_path, run, measured(run))
    assert "25 100.0 % (86.7 to 100.0) 100.0 %" in page.words
    assert "25 0.0 % (0.0 to 13.3) 0.0 %" in page.words


def test_many_labels(tmp_path: Path):
    labels = [f"label {number}" for number in range(50)]
    scores = softmax(np.random.default_rng(0).normal(size=(200, 50)), axis=1)
    run = made(scores, [labels[row % 50] for row in range(200)], labels)
    report(tmp_path, run, measured(run))
    assert drawn(tmp_path) == MEASURED


@pytest.mark.slow
def test_a_hundred_thousand_clips_take_seconds(tmp_path: Path):
    clips = 100_000
    run = random_run(clips, speaker=[f"s{row % 5000}" for row in range(clips)], errors={5: "no"})
    metrics = measured(run, "speaker")
    started = time.process_time()  # which a busy machine does not change
    report(tmp_path, run, metrics, "speaker")
    assert time.process_time() - started < 10
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_wilson_is_the_published_interval():
    low, high = wilson_interval(np.array([0.0, 0.5, 1.0]), np.array([10, 100, 10]))
    np.testing.assert_allclose(low, [0, 0.4038, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.5962, 1], atol=1e-4)


def test_clips_without_label_or_score_are_left_out():
    run = made(np.eye(2)[[0, 1, 1, 0]], ["a", None, "b", "a"], ["a", "b"], errors={3: "no"})
    assert ReportClips.of(run, labelled=True).rows.tolist() == [0, 2]
    assert ReportClips.of(run, labelled=False).rows.tolist() == [0, 1, 2]


def test_summary():
    run = random_run(200, errors={3: "no"})
    metrics = measured(run)
    # As the run's folder keeps it, without hosts and devices.
    throughput = {"clips": 200, "audio_seconds": 900.0, "seconds": 10.0, "compile_seconds": 4.0}
    text = summary(run, metrics, throughput)
    assert "200: 199 scored, 1 with an error, 0 without a label" in text
    low, high = metrics["intervals"]["uar"]
    assert re.search(rf"UAR +{100 * metrics['uar']:.1f} %  \(95 %: {100 * low:.1f} to {100 * high:.1f}\)", text)
    rows = [line for line in text.splitlines() if line.startswith(ES)]
    assert len(rows) == len(ES)
    assert len({len(line) for line in rows}) == 1
    assert "90.0 audio-seconds per second, 150.0 without compilation" in text
    bare = summary(random_run(3, labelled=False), None, throughput | {"audio_seconds": 0.0, "clips": 30})
    assert "Accuracy" not in bare
    assert "3.0 clips per second, 5.0 without compilation" in bare
