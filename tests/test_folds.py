"""Cross-validation as its user sees it: each clip is scored once, by a model that saw neither it nor its group."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from speech_emotion_jax.cli.main import main
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.evaluation.metrics import measure
from speech_emotion_jax.training import folds
from speech_emotion_jax.training.folds import cross_validate
from speech_emotion_jax.training.run import TrainConfig

from .support.training_data import LABELS, WORDS, recipe, write_recipe

FAST = ("training.epochs=1", "model.num_hidden_layers=1")
UNLABELLED = 5
SPEAKERS = 4
CLIPS = 28
METRICS = ("accuracy", "uar", "macro_f1", "macro_precision", "weighted_f1", "ece", "log_loss")


def write_texts(path: Path, **columns: Callable[[int], str]) -> Path:
    """Texts of four speakers in two splits, one of them without a label. `fear` is said by one speaker alone."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "transcription", "split", "speaker", *columns])
        for number in range(CLIPS):
            speaker = (7 * number) % SPEAKERS
            label = "fear" if number in (3, 7) else LABELS[number % len(LABELS)]
            writer.writerow(
                [
                    f"clip {number}",
                    "" if number == UNLABELLED else label,
                    WORDS.get(label, "miedo"),
                    ("train", "test", "", "dev")[number % 4],
                    f"s{speaker}",
                    *(make(number) for make in columns.values()),
                ]
            )
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "manifest.csv")


def job(corpus: Path, folder: Path, *overrides: str, name: str = "out") -> TrainConfig:
    return TrainConfig(recipe(folder, "text", *FAST, *overrides), str(corpus), str(folder / name))


@pytest.fixture(scope="module")
def three(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, str]:
    """A finished run of three folds, and what was said at its end."""
    done = job(corpus, tmp_path_factory.mktemp("three"))
    outcome = cross_validate(done, 3)
    assert (outcome.finished, outcome.clips, outcome.errors) == (True, CLIPS - 1, 0)
    return done, outcome.text


def table(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_every_clip_is_predicted_once_in_the_order_of_the_manifest(three: tuple[TrainConfig, str]):
    out = Path(three[0].output)
    rows = table(out / "predictions.parquet")
    assert [row["id"] for row in rows] == [f"clip {number}" for number in range(CLIPS) if number != UNLABELLED]
    assert {row["test_fold"] for row in rows} == {1, 2, 3}
    of_folds = {}
    for number in (1, 2, 3):
        for row in table(out / f"fold-{number}" / "evaluation" / "predictions.parquet"):
            del row["role"]
            of_folds[row["id"]] = {**row, "test_fold": number}
    assert {row["id"]: row for row in rows} == of_folds


@pytest.mark.slow
def test_no_group_is_on_two_sides(three: tuple[TrainConfig, str]):
    tested: dict[str, int] = {}
    for number in (1, 2, 3):
        rows = table(Path(three[0].output) / f"fold-{number}" / "manifest.parquet")
        assert [row["id"] for row in rows if row["role"] is None] == [f"clip {UNLABELLED}"]
        speakers = [{row["speaker"] for row in rows if row["role"] == role} for role in ("train", "valid", "test")]
        assert all(speakers)
        assert sum(map(len, speakers)) == SPEAKERS
        tested.update(dict.fromkeys(speakers[2], number))
    predictions = table(Path(three[0].output) / "predictions.parquet")
    assert {row["speaker"]: row["test_fold"] for row in predictions} == tested
    assert len(tested) == SPEAKERS


@pytest.mark.slow
def test_mean_and_spread_are_those_of_the_folds(three: tuple[TrainConfig, str]):
    out = Path(three[0].output)
    found = json.loads((out / "folds.json").read_text())
    each = [json.loads((out / f"fold-{number}" / "metrics.json").read_text()) for number in (1, 2, 3)]
    for name in METRICS:
        values = [metrics[name] for metrics in each]
        assert found["metrics"][name]["values"] == values
        assert found["metrics"][name]["mean"] == pytest.approx(np.mean(values))
        assert found["metrics"][name]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert len({metrics["log_loss"] for metrics in each}) == 3

    rows = table(out / "predictions.parquet")
    labels = sorted({*LABELS, "fear"})
    scores = np.array([[row[f"score_{label}"] for label in labels] for row in rows], np.float64)
    truth, speakers = ([row[name] for row in rows] for name in ("label", "speaker"))
    assert found["pooled"] == json.loads(json.dumps(measure(truth, scores, labels, groups=speakers)))


@pytest.mark.slow
def test_the_table_has_a_row_a_fold(three: tuple[TrainConfig, str]):
    found = json.loads((Path(three[0].output) / "folds.json").read_text())
    lines = [re.split(r"\s{2,}", line.strip()) for line in three[1].splitlines()]
    assert lines[0] == ["fold", "clips", "accuracy", "UAR", "macro-F1"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "3", "mean ± sd", "pooled", "95 %"]
    for line, each in zip(lines[1:4], found["folds"], strict=True):
        assert line[1:] == [
            str(each["clips"]),
            *(f"{100 * each[name]:.1f}" for name in ("accuracy", "uar", "macro_f1")),
        ]
    accuracy = found["metrics"]["accuracy"]
    assert lines[4][1] == f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['sd']:.1f}"
    assert lines[5][1:3] == [str(CLIPS - 1), f"{100 * found['pooled']['accuracy']:.1f}"]


@pytest.mark.slow
def test_a_second_start_does_nothing(three: tuple[TrainConfig, str]):
    before = written(Path(three[0].output))
    outcome = cross_validate(three[0], 3)
    assert outcome.text == three[1]
    assert written(Path(three[0].output)) == before


@pytest.mark.slow
def test_other_settings_are_refused_with_the_difference(three: tuple[TrainConfig, str]):
    with pytest.raises(InvalidInput, match="folds: 3 then, 2 now"):
        cross_validate(three[0], 2)
    other = replace(three[0].recipe, training=replace(three[0].recipe.training, seed=1))
    with pytest.raises(InvalidInput, match=r"recipe.training.seed: 0 then, 1 now"):
        cross_validate(replace(three[0], recipe=other), 3)


@pytest.mark.slow
def test_killed_between_and_within_folds_it_goes_on(
    three: tuple[TrainConfig, str], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed once fold 1 is done, then when the second one's model stands and is not scored."""

    class Killed(BaseException):
        pass

    again = job(corpus, tmp_path)
    real = folds.train
    started: list[str] = []

    def killed_before_fold_2(fold: TrainConfig, *rest: Any):
        if fold.output.endswith("fold-2"):
            raise Killed
        return real(fold, *rest)

    def killed_in_fold_2(fold: TrainConfig, *rest: Any):
        started.append(Path(fold.output).name)
        outcome = real(fold, *rest)
        Path(fold.output, "metrics.json").unlink()
        raise Killed(outcome)

    for killed in (killed_before_fold_2, killed_in_fold_2):
        with monkeypatch.context() as patched:
            patched.setattr(folds, "train", killed)
            with pytest.raises(Killed):
                cross_validate(again, 3)
        assert not (tmp_path / "out" / "folds.json").exists()
    assert started == ["fold-2"]
    best = {name: time for name, time in written(tmp_path / "out").items() if "/best" in name}
    first = {name: time for name, time in written(tmp_path / "out").items() if name.startswith("fold-1/")}
    assert cross_validate(again, 3).text == three[1]
    after = written(tmp_path / "out")
    assert {name: after[name] for name in best | first} == best | first
    assert table(tmp_path / "out" / "predictions.parquet") == table(Path(three[0].output) / "predictions.parquet")


@pytest.mark.slow
def test_a_group_is_left_out_at_a_time(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From the command line, by a column that is not the recipe's."""
    corpus = write_texts(tmp_path / "m.csv", take=lambda number: ("b", "a", "c")[number % 3])
    settings = [f"--set={each}" for each in FAST]
    command = ["train", str(write_recipe(tmp_path, "text")), "--manifest", str(corpus), *settings]
    command += ["--output", str(tmp_path / "out"), "--folds", "groups", "--group-by", "take"]
    assert main(command) == 0
    rows = table(tmp_path / "out" / "predictions.parquet")
    assert {(row["take"], row["test_fold"]) for row in rows} == {("b", 1), ("a", 2), ("c", 3)}
    assert len(rows) == CLIPS - 1
    found = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert [each["name"] for each in found["folds"]] == ["b", "a", "c"]
    assert [each["groups"] for each in found["folds"]] == [1, 1, 1]
    assert found["group_by"] == "take"
    printed = capsys.readouterr().out
    assert re.search(r"^1 b +\d+", printed, re.MULTILINE)
    assert "fold-1/" in printed


@pytest.mark.slow
def test_rows_are_divided_where_there_is_no_group(corpus: Path, tmp_path: Path):
    cross_validate(job(corpus, tmp_path, "data.group_by=none"), 2)
    found = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert sorted(each["clips"] for each in found["folds"]) == [13, 14]
    assert found["group_by"] is None


@pytest.mark.parametrize(
    ("count", "override", "sentence"),
    [
        (5, "", "has 4 groups in 'speaker', fewer than 5 folds; ask for fewer folds"),
        (1, "", "1 fold can't be; ask for 2 or more"),
        (0, "", "0 folds can't be"),
        (28, "data.group_by=none", "has 27 labelled rows, fewer than 28 folds"),
        (None, "data.group_by=none", "needs a column of groups; name it with --group-by"),
        (None, "data.group_by=nobody", "no column 'nobody'"),
        (None, "data.group_by=split", "row 3 of .* has nothing in 'split'"),
        (None, "data.group_by=half", "has 2 groups in 'half'"),
        (2, "data.group_by=half", "no second group in 'half' to learn from"),
        (2, 'data.labels=["anger", "joy"]', "unknown labels"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, count: int | None, override: str, sentence: str
):
    corpus = write_texts(tmp_path / "m.csv", half=lambda number: str(number % 2))
    overrides = [override] if override else []
    with pytest.raises(InvalidInput, match=sentence):
        cross_validate(job(corpus, tmp_path, *overrides), count)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "column", "sentence"), [("memory://out", "x", "is on a bucket"), ("out", "test_fold", "rename it")]
)
def test_places_and_columns_that_cannot_be_used(tmp_path: Path, output: str, column: str, sentence: str):
    corpus = write_texts(tmp_path / "m.csv", **{column: str})
    with pytest.raises(InvalidInput, match=sentence):
        cross_validate(replace(job(corpus, tmp_path), output=output), 2)


def test_the_command_line_says_what_folds_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "r.toml", "--manifest", "m.csv", "--output", str(tmp_path / "out"), "--folds", "five"]) == 2
    assert "'five' is neither a number nor groups" in capsys.readouterr().err
