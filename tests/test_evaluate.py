"""Bulk runs on a small corpus, in one process; tests/test_killed_runs.py kills some."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speech_emotion_jax.audio import Cut
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.corpus.manifest_files import read_manifest
from speech_emotion_jax.corpus.packing import pack
from speech_emotion_jax.errors import InvalidInput, SpeechEmotionError
from speech_emotion_jax.evaluation import batches as planning
from speech_emotion_jax.evaluation.batches import BatchPlan
from speech_emotion_jax.evaluation.results import EvaluationRun
from speech_emotion_jax.evaluation.run import EvaluateConfig, evaluate
from speech_emotion_jax.inference.pipeline import EmotionPipeline
from speech_emotion_jax.runtime.storage import Folder

from .conftest import all_optimizations
from .support.budgets import BATCH_BUDGET

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness")
CLIPS = 30
BROKEN = (4, 17)  # one is no audio, of the other the end is missing


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 0.2 to 2 s, two broken recordings among it, and manifest.csv."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows = []
    for number in range(CLIPS):
        rate = int(random.choice([8000, 16000, 22050]))
        name = f"{'ab'[number % 2]}/clip-{number:02}.wav"
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, random.normal(0, 0.1, int(rate * random.uniform(0.2, 2))), rate)
        rows.append(
            {
                "filename": name,
                "label": LABELS[random.integers(6)] if number != 9 else "",
                "transcription": " ".join(["hola", "qué", "tal"] * int(random.integers(1, 20))),
                "split": "test" if number % 3 else "train",
                "speaker": f"s{number % 7}",
            }
        )
    (folder / rows[BROKEN[0]]["filename"]).write_text("no sound")
    whole = (folder / rows[BROKEN[1]]["filename"]).read_bytes()
    (folder / rows[BROKEN[1]]["filename"]).write_bytes(whole[: len(whole) // 2])
    write_csv(folder / "manifest.csv", rows)
    return folder


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def job(corpus: Path, published: Callable[..., Path], tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        str(corpus / "manifest.csv"), str(tmp_path / "out"), request(published, "concat"), batch_size=4
    )


def request(published: Callable[..., Path], mode: str) -> Request:
    encoder = str(published("text_encoder", "es")) if mode == "concat" else None
    return Request(str(published(mode, "es")), mode, "es", encoder)


@pytest.fixture(scope="module")
def finished_run(corpus: Path, published: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `job`, made once."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    evaluate(EvaluateConfig(str(corpus / "manifest.csv"), str(folder), request(published, "concat"), batch_size=4))
    return folder


@pytest.fixture
def finished_job(job: EvaluateConfig, finished_run: Path) -> EvaluateConfig:
    """A job whose output is finished."""
    shutil.copytree(finished_run, job.output)
    return job


def files(folder: str | Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).iterdir()}


def test_a_run(job: EvaluateConfig, corpus: Path):
    outcome = evaluate(replace(job, group_by="speaker", embeddings=True))
    assert (outcome.finished, outcome.clips, outcome.errors) == (True, CLIPS, len(BROKEN))
    rows, run = rows_of(corpus), EvaluationRun.read(job.output)
    assert run.labels == LABELS
    assert run.column("filename") == [row["filename"] for row in rows]
    assert run.column("speaker") == [row["speaker"] for row in rows]
    assert run.column("text") == [row["transcription"] for row in rows]
    assert np.flatnonzero(~run.scored).tolist() == list(BROKEN)
    assert all(rows[number]["filename"] in run.column("error")[number] for number in BROKEN)
    assert not any(run.column("truncated"))

    pipeline = EmotionPipeline.from_pretrained(
        job.request.model_id, mode="concat", language="es", text_encoder=job.request.text_encoder
    )
    good = [number for number in range(CLIPS) if number not in BROKEN]
    examples = [{"audio": corpus / rows[each]["filename"], "text": rows[each]["transcription"]} for each in good]
    for number, expected in zip(good, pipeline.predict(examples), strict=True):
        np.testing.assert_allclose(run.probabilities[number], list(expected["scores"].values()), atol=BATCH_BUDGET)
        assert run.column("top_label")[number] == expected["top_label"]
        assert run.column("top_score")[number] == np.float32(run.probabilities[number].max())
        assert run.column("duration")[number] == pytest.approx(
            soundfile.info(corpus / rows[number]["filename"]).duration, abs=1e-3
        )
    assert np.isnan(run.probabilities[list(BROKEN)]).all()

    vectors = pq.read_table(Path(job.output) / "embeddings.parquet").to_pydict()
    assert vectors["id"] == run.ids
    assert [number for number, vector in enumerate(vectors["audio"]) if vector is None] == list(BROKEN)
    assert {len(vector) for vector in vectors["text"] if vector} == {pipeline.config.text.hidden_size}

    metrics = json.loads((Path(job.output) / "metrics.json").read_text())
    assert (metrics["errors"], metrics["unlabelled"], metrics["clips"]) == (2, 1, CLIPS - 3)
    right = [number for number in good if rows[number]["label"] == run.column("top_label")[number]]
    assert metrics["accuracy"] == pytest.approx(len(right) / (CLIPS - 3))
    assert not list(Path(job.output).glob("part-*"))


def test_a_finished_run_is_left_alone_and_may_be_measured_anew(finished_job: EvaluateConfig):
    before = files(finished_job.output)
    outcome = evaluate(finished_job)
    assert (outcome.finished, outcome.clips, outcome.errors) == (True, CLIPS, len(BROKEN))
    assert files(finished_job.output) == before
    evaluate(replace(finished_job, group_by="speaker"))
    after = files(finished_job.output)
    assert after["predictions.parquet"] == before["predictions.parquet"]
    assert json.loads(after["metrics.json"][0])["groups"] == 7


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 3}, "batch_size: 4 then, 3 now"),
        ({"split": "test"}, 'split: null then, "test" now'),
        ({"label_map": {"anger": "joy"}}, 'label_map.anger: null then, "joy" now'),
        ({"precision": "bfloat16"}, 'precision: "float32" then, "bfloat16" now'),
    ],
)
def test_other_settings_are_refused_by_name(finished_job: EvaluateConfig, change: dict[str, Any], named: str):
    before = files(finished_job.output)
    with pytest.raises(InvalidInput, match="begun with other settings") as refusal:
        evaluate(replace(finished_job, **change))
    assert named in str(refusal.value)
    assert files(finished_job.output) == before


def test_another_manifest_or_checkpoint_is_refused(
    finished_job: EvaluateConfig, corpus: Path, published: Callable[..., Path]
):
    changed = write_csv(corpus / "changed.csv", rows_of(corpus)[1:])
    with pytest.raises(InvalidInput, match=r"settings\.manifest"):
        evaluate(replace(finished_job, manifest=str(changed)))
    with pytest.raises(InvalidInput, match=r"settings\.weights\.model"):
        evaluate(replace(finished_job, request=request(published, "audio")))


def test_a_folder_with_something_else_is_refused(job: EvaluateConfig):
    Path(job.output).mkdir()
    (Path(job.output) / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidInput, match=r"not empty and holds no run \(it has thesis\.tex"):
        evaluate(job)


def test_without_labels_there_are_predictions_alone(job: EvaluateConfig, corpus: Path, published: Callable[..., Path]):
    bare = write_csv(corpus / "bare.csv", [{"filename": row["filename"]} for row in rows_of(corpus)])
    outcome = evaluate(replace(job, manifest=str(bare), request=request(published, "audio")))
    run = EvaluationRun.read(job.output)
    assert outcome.clips == CLIPS
    assert run.column("text") == [None] * CLIPS
    assert not (Path(job.output) / "metrics.json").exists()
    assert (Path(job.output) / "report.html").exists()


def test_rows_that_cannot_be_scored_do_not_stop_the_others(job: EvaluateConfig, corpus: Path):
    names = [row["filename"] for row in rows_of(corpus)[:3]]
    columns = {
        "filename": [*names, "lost.wav"],
        "transcription": ["hola", "", "nada", "no"],
        "raters": [["a", "b"]] * 4,
    }
    columns |= {"duration": [1.0, 2.0, 3.0, 4.0], "emotion": ["joy"] * 4}
    pq.write_table(pa.table(columns), corpus / "some.parquet")
    job = replace(job, manifest=str(corpus / "some.parquet"), group_by="duration")
    with pytest.raises(InvalidInput, match="2 problems"):
        evaluate(replace(job, strict=True))
    assert not Path(job.output).exists()
    with pytest.warns(UserWarning, match=r"manifest_duration|get an error") as notes:
        outcome = evaluate(job)
    said = "\n".join(str(note.message) for note in notes)
    assert "the results have duration as manifest_duration" in said
    assert "2 of 4 rows get an error, see problems.csv" in said
    assert (outcome.clips, outcome.errors) == (4, 2)
    truth = "No truth: there is no column label; there are filename, transcription, raters, manifest_duration, emotion"
    assert f"{truth} (--columns label=emotion)" in outcome.text
    assert truth in (Path(job.output) / "report.html").read_text()
    run = EvaluationRun.read(job.output)
    assert run.scored.tolist() == [True, False, True, False]
    assert "no text" in run.column("error")[1]
    assert "lost.wav" in run.column("error")[3]
    with (Path(job.output) / "problems.csv").open(newline="") as file:
        assert [(row["row"], row["id"]) for row in csv.DictReader(file)] == [("2", names[1]), ("4", "lost.wav")]

    again = replace(job, manifest=f"{job.output}/predictions.parquet", output=f"{job.output}-2", audio_root=str(corpus))
    with pytest.warns(UserWarning, match=r"as manifest_text|get an error"):
        evaluate(replace(again, columns={"label": "emotion"}, group_by="emotion"))
    with (Path(again.output) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["filename"], row["truth"], row["raters"]) for row in rows] == [
        (name, "joy", '["a", "b"]') for name in columns["filename"]
    ]
    assert EvaluationRun.read(again.output).column("top_label") == run.column("top_label")


def test_where_no_clip_can_be_read(job: EvaluateConfig, corpus: Path):
    rows = rows_of(corpus)
    manifest = write_csv(corpus / "broken.csv", [rows[number] for number in BROKEN])
    job = replace(job, manifest=str(manifest))
    assert evaluate(job).errors == 2
    assert evaluate(job).errors == 2
    assert EvaluationRun.read(job.output).column("top_label") == [None, None]
    assert not (Path(job.output) / "metrics.json").exists()


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"limit": 0}])
def test_sizes_of_nothing_are_refused(job: EvaluateConfig, change: dict[str, int]):
    with pytest.raises(InvalidInput, match="is 0; it must be at least 1"):
        evaluate(replace(job, **change))


def break_off(job: EvaluateConfig, failure: type[BaseException]) -> None:
    """A run that fails while it reads ahead, at the sixth batch."""
    read = BatchPlan.__getitem__

    def broken(batches: BatchPlan, number: int) -> Any:
        if number == 5:
            raise failure
        return read(batches, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BatchPlan, "__getitem__", broken)
        with pytest.raises(failure):
            evaluate(job)


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has(job: EvaluateConfig, corpus: Path):
    """Interrupted from the keyboard, and by something that fails."""
    evaluate(replace(job, output=job.output + "-whole"))
    for failure in (KeyboardInterrupt, MemoryError):
        break_off(job, failure)
        assert list(Path(job.output).glob("part-*"))
    evaluate(job)
    assert files(job.output)["predictions.parquet"][0] == files(job.output + "-whole")["predictions.parquet"][0]


@pytest.mark.slow
def test_recordings_that_changed_meanwhile_are_noticed(job: EvaluateConfig, corpus: Path, tmp_path: Path):
    """Their lengths decide what is scored together, so a half-done run can't take them."""
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    job = replace(job, manifest=str(copy / "manifest.csv"))
    break_off(job, MemoryError)
    (part,) = Path(job.output).glob("part-*")
    done = pq.read_table(part).column("number").to_pylist()[0]
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 9)
    soundfile.write(copy / rows_of(corpus)[done]["filename"], sound, 16_000)
    with pytest.raises(InvalidInput, match=r"recordings have changed.*another output"):
        evaluate(job)


def test_a_missing_transcriber_is_told_before_anything_is_scored(job: EvaluateConfig):
    with pytest.raises(SpeechEmotionError, match="nowhere"):
        evaluate(replace(job, whisper="/nowhere"))
    assert not Path(job.output).exists()


@pytest.mark.slow
def test_cuts_and_packed_recordings_give_what_files_give(job: EvaluateConfig, corpus: Path, tmp_path: Path):
    rows = [row for number, row in enumerate(rows_of(corpus)) if number not in BROKEN][:12]
    bounds = [(0.0, 0.15) if number % 2 else (0.05, 0.19) for number in range(len(rows))]
    cuts = [{**row, "start": start * 1000, "end": end * 1000} for row, (start, end) in zip(rows, bounds, strict=True)]
    manifest = write_csv(corpus / "cuts.csv", cuts)
    of_files = replace(job, manifest=str(manifest), time_unit="ms")
    evaluate(of_files)
    loose = EvaluationRun.read(job.output)
    assert loose.column("duration") == pytest.approx([end - start for start, end in bounds], abs=1e-3)

    pack(str(manifest), str(corpus), str(tmp_path / "packed"), time_unit="ms")
    packed = replace(
        of_files, manifest=str(tmp_path / "packed" / "manifest.parquet"), output=str(tmp_path / "from-shards")
    )
    evaluate(packed)
    assert np.array_equal(EvaluationRun.read(packed.output).probabilities, loose.probabilities)

    pipeline = EmotionPipeline.from_pretrained(
        job.request.model_id, mode="concat", language="es", text_encoder=job.request.text_encoder
    )
    example = {"audio": Cut(corpus / rows[0]["filename"], *bounds[0]), "text": rows[0]["transcription"]}
    (expected,) = pipeline.predict([example])
    np.testing.assert_allclose(loose.probabilities[0], list(expected["scores"].values()), atol=BATCH_BUDGET)


@pytest.mark.slow
def test_rows_without_text_are_transcribed(
    job: EvaluateConfig, corpus: Path, published: Callable[..., Path], whisper_tiny: Path, tmp_path: Path
):
    rows = [{**row, "transcription": row["transcription"] * (number % 2)} for number, row in enumerate(rows_of(corpus))]
    manifest = str(write_csv(corpus / "half.csv", rows[:8]))
    with pytest.raises(InvalidInput, match=r"(?s)text.*4\b"):
        evaluate(replace(job, manifest=manifest, strict=True))
    evaluate(replace(job, manifest=manifest, whisper=str(whisper_tiny), output=str(tmp_path / "whisper")))
    run = EvaluationRun.read(str(tmp_path / "whisper"))
    texts, errors = run.column("text"), run.column("error")
    assert rows[BROKEN[0]]["filename"] in errors[BROKEN[0]]
    for number in {*range(8)} - {BROKEN[0]}:
        if number % 2:
            assert (texts[number], errors[number]) == (rows[number]["transcription"], None)
        elif errors[number]:  # a model without training may say nothing
            assert "could be transcribed" in errors[number]
        else:  # what it says is used
            assert texts[number]
            assert run.scored[number]


@pytest.mark.slow
def test_a_bucket_for_manifest_output_and_checkpoint(job: EvaluateConfig, corpus: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    evaluate(job)
    here = EvaluationRun.read(job.output)
    bucket = Folder.open("memory://corpus")
    bucket.make()
    with bucket.files.open(bucket.path("manifest.csv"), "wb") as file:
        file.write(Path(job.manifest).read_bytes())
    bucket.files.put(job.request.model_id, bucket.path("model"), recursive=True)
    there = replace(
        job,
        manifest="memory://corpus/manifest.csv",
        output="memory://corpus/out",
        audio_root=str(corpus),
        request=replace(job.request, model_id="memory://corpus/model"),
    )
    evaluate(there)
    assert EvaluationRun.read("memory://corpus/out").table.equals(here.table)
    assert not Folder.open("memory://corpus/out").holds("part-00000000-00000007.parquet")


def test_the_command(corpus: Path, published: Callable[..., Path], tmp_path: Path, capsys):
    arguments = [
        "evaluate",
        f"--manifest={corpus / 'manifest.csv'}",
        f"--model-id={published('audio', 'es')}",
        "--mode=audio",
        "--language=es",
        f"--output={tmp_path / 'out'}",
        "--batch-size=4",
    ]
    assert main(arguments) == 3
    said = capsys.readouterr()
    assert "2 of 30 clips" in said.err
    assert main(arguments) == 3
    assert main([*arguments, "--limit=3"]) == 2
    assert "limit: null then, 3 now" in capsys.readouterr().err
    assert main([*arguments, "--limit=3", f"--output={tmp_path / 'three'}"]) == 0
    assert main([*arguments, "--hosts=2"]) == 2
    assert "--coordinator" in capsys.readouterr().err
    assert main([*arguments, "--group-by=speeker", f"--output={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.process
def test_results_do_not_depend_on_the_number_of_devices(job: EvaluateConfig):
    with all_optimizations():
        evaluate(job)
    script = f"""
from speech_emotion_jax.evaluation.run import EvaluateConfig, evaluate
from speech_emotion_jax.checkpoints import Request
import jax
assert len(jax.devices()) == 4
evaluate(EvaluateConfig({job.manifest!r}, {job.output + "-4"!r}, Request{_fields(job.request)}, batch_size=4))
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    one, four = (files(output)["predictions.parquet"][0] for output in (job.output, job.output + "-4"))
    assert one == four


def _fields(request: Request) -> tuple[object, ...]:
    return (request.model_id, request.mode, request.language, request.text_encoder)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_row_is_in_one_batch(tmp_path: Path, monkeypatch, count: int, batch_size: int):
    monkeypatch.setattr(planning, "WINDOW", 8)
    seconds = np.random.default_rng(count).uniform(0.1, 200, count)
    path = tmp_path / "m.csv"
    write_csv(path, [{"filename": f"{number}.wav", "seconds": each} for number, each in enumerate(seconds)])
    manifest = read_manifest(str(path))
    batches = BatchPlan(manifest, batch_size, lambda row: row.filename, has_audio=True)
    numbers = [[row.number for row in batch] for batch in batches]
    assert sorted(number for batch in numbers for number in batch) == list(range(count))
    assert all(1 <= len(batch) <= batch_size for batch in numbers)
    assert [each for window in range(batches.window_count()) for each in batches.batches_of_window(window)] == list(
        range(len(batches))
    )
    for window in range(batches.window_count()):
        rows = [number for each in batches.batches_of_window(window) for number in numbers[each]]
        assert set(rows) == set(range(window * 8, min(window * 8 + 8, count)))
        lengths = [seconds[row] for row in rows]
        assert all(after > before - 60 for before, after in pairwise(lengths))
    # Found alone as in the row of all: what is left to do changes nothing.
    again = BatchPlan(manifest, batch_size, lambda row: row.filename, has_audio=True)
    assert [row.number for row in again[len(again) - 1]] == numbers[-1]
