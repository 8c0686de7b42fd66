"""The exported folder: the same numbers as the pipeline's, on any batch, in a process that knows no model code."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import export as jax_export

from speech_emotion_jax import EmotionPipeline, InvalidInput
from speech_emotion_jax.audio.fbank import samples_for
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.exporting.run import ExportConfig, export, render_export
from speech_emotion_jax.exporting.standalone import Emotions, recording
from speech_emotion_jax.text.tokenizer import load_cached_tokenizer

from .support.bad_input import RATE, noise
from .support.folders import refusal
from .support.marks import rest_slow

DEMO = Path(str(files("speech_emotion_jax") / "demo_data"))
EXPORT_BUDGET = 1e-6  # absolute, on probabilities, float32: the same programs
TEXTS = ["¡Qué alegría!", "hoy estoy muy feliz", "triste"]
REQUEST = Request(str(DEMO / "checkpoint"), mode="concat", language="es")
BLOCKED = "import runpy, sys; sys.argv = sys.argv[1:]; " + "".join(
    f"sys.modules[{name!r}] = None; " for name in ("speech_emotion_jax", "flax", "orbax", "transformers", "torch")
)


def load(request: Request, batch_size: int) -> EmotionPipeline:
    """XLA rounds products of one row and of three differently (8e-6 on the demo): batches have to be alike."""
    return EmotionPipeline.from_pretrained(
        request.model_id,
        mode=request.mode,
        language=request.language,
        text_encoder=request.text_encoder,
        batch_size=batch_size,
    )


def probabilities(pipeline: EmotionPipeline, clips: list[np.ndarray], texts: list[str]) -> np.ndarray:
    examples = [
        {"audio": {"array": clip, "sampling_rate": RATE}, "text": text} for clip, text in zip(clips, texts, strict=True)
    ]
    return np.array([list(each["scores"].values()) for each in pipeline.predict(examples)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's checkpoint, exported by the command line."""
    folder = tmp_path_factory.mktemp("export") / "demo"
    named = ["--mode=concat", "--language=es", f"--model-id={DEMO / 'checkpoint'}"]
    assert main(["export", *named, "--seconds=3,1", f"--output={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def emotions(demo: Path) -> Emotions:
    return Emotions(demo)


@pytest.fixture(scope="module")
def exported(published: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory):
    """A tiny random checkpoint as a Request and, exported, as a folder."""

    def make(mode: str, **options: Any) -> tuple[Request, Path]:
        text_encoder = None if mode in ("text", "audio") else str(published("text_encoder", "es"))
        request = Request(str(published(mode, "es")), mode=mode, language="es", text_encoder=text_encoder)
        folder = tmp_path_factory.mktemp("export") / mode
        export(ExportConfig(request, str(folder), **options))
        return request, folder

    return make


@pytest.mark.parametrize("seconds", rest_slow([(0.3,), (2.5, 2.3, 2.4)]))
def test_the_demo_says_what_the_pipeline_says(emotions: Emotions, seconds: tuple[float, ...]):
    clips = [noise(each, seed=number) for number, each in enumerate(seconds)]
    expected = probabilities(load(REQUEST, len(clips)), clips, TEXTS[: len(clips)])
    given = emotions.probabilities(clips, TEXTS[: len(clips)])
    assert given.shape == (len(clips), 6)
    np.testing.assert_allclose(given, expected, rtol=0, atol=EXPORT_BUDGET)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "counts"), [("audio", [1]), ("text", [1, 3]), ("multihead", [3])])
def test_other_modes_say_what_the_pipeline_says(exported, mode: str, counts: list[int]):
    request, folder = exported(mode, platforms=("cpu",), seconds=(1.0,))
    clips = [noise(seconds, seed=number) for number, seconds in enumerate((0.7, 0.9, 1.0))]
    emotions = Emotions(folder)
    for count in counts:
        expected = probabilities(load(request, count), clips[:count], TEXTS[:count])
        given = emotions.probabilities(clips[:count], TEXTS[:count])
        np.testing.assert_allclose(given, expected, rtol=0, atol=EXPORT_BUDGET)
        assert count == 1 or np.ptp(expected, axis=0).max() > 0.01, "the clips are too alike to tell them apart"
    assert (folder / "tokenizer.json").exists() == (mode != "audio")
    assert {name.rpartition("-")[0] for name in emotions.programs if name != "head"} == {
        "audio": {"audio"},
        "text": {"text"},
        "multihead": {"audio", "text"},
    }[mode]


@pytest.mark.slow
def test_bfloat16_keeps_the_matrices_in_half_the_bytes(exported):
    _, folder = exported("text", platforms=("cpu",), precision="bfloat16")
    emotions = Emotions(folder)
    dtypes = {path: array.dtype.name for path, array in emotions.parameters.items()}
    assert dtypes["text_encoder.layers.output.kernel"] == "bfloat16"
    assert dtypes["classifier.dense.kernel"] == "float32"
    assert emotions.probabilities(texts=TEXTS[:1]).sum() == pytest.approx(1, abs=1e-6)


def test_a_program_holds_all_platforms_a_symbolic_batch_and_no_parameters(demo: Path, emotions: Emotions):
    names = {path.stem for path in (demo / "programs").iterdir()}
    assert names == {"audio-64", "audio-192", "head", *(f"text-{tokens}" for tokens in (16, 32, 64, 128, 256, 512))}
    for name in names:
        content = (demo / "programs" / f"{name}.jax").read_bytes()
        program = jax_export.deserialize(bytearray(content))
        assert program.platforms == ("tpu", "cuda", "cpu")
        batches = {str(each.shape[0]) for each in program.in_avals[len(emotions.parameters) :]}
        assert batches == {str(each.shape[0]) for each in program.out_avals} == {"batch"}
        assert "tensor<?x" in program.mlir_module()
        assert str(DEMO.parent).encode() not in content, "folders of this machine are nobody's business"
        # A feature table of 4.2 MB is in the programs that hear; parameters are 0.9 MB.
        assert len(content) < (4.3e6 if name.startswith("audio") else 5e4)


@pytest.mark.slow
def test_a_recording_as_the_package_reads_it(tmp_path: Path):
    import soundfile

    from speech_emotion_jax.audio.waveform import load

    file = tmp_path / "stereo.wav"
    soundfile.write(file, np.stack([noise(1.0), noise(1.0, seed=1)], axis=1), 44_100)
    np.testing.assert_array_equal(recording(str(file)), load(file))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """run.py in a process that can't import the package, nor what models are made of."""
    code = f"{BLOCKED}runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(folder / "run.py"), *arguments]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.process
def test_run_py_needs_no_model_code(demo: Path):
    done = run(demo, "--audio", str(DEMO / "joy.flac"), "--text", TEXTS[0])
    assert done.returncode == 0, done.stderr
    scores = {label: float(score) for label, score in (line.split() for line in done.stdout.splitlines())}
    [expected] = load(REQUEST, 1).predict([{"audio": DEMO / "joy.flac", "text": TEXTS[0]}])
    assert scores == pytest.approx(expected["scores"], abs=1e-4)
    assert next(iter(scores)) == expected["top_label"]


@pytest.mark.process
def test_run_py_says_what_it_needs(demo: Path):
    done = run(demo, "--audio", str(DEMO / "joy.flac"))
    assert done.returncode == 2
    assert "mode concat needs --text" in done.stderr
    done = run(demo, "--audio", "nowhere.wav", "--text", "hola")
    assert done.returncode == 2
    assert "there is no file nowhere.wav" in done.stderr


def test_a_recording_has_to_fit(emotions: Emotions):
    longest = samples_for(192)
    assert emotions.audio_vectors([np.resize(noise(3.0), longest)] * 3).shape == (3, 48)
    with pytest.raises(ValueError, match=re.escape("a recording of 3.86 s is longer than 3.85 s")):
        emotions.audio_vectors([np.resize(noise(3.0), longest + 100)])
    with pytest.raises(ValueError, match="a recording has 559 samples, and 560 are needed"):
        emotions.audio_vectors([noise(1.0), noise(1.0)[:559]])
    for broken in (np.full(8000, 0.5, np.float32), np.append(noise(1.0), np.nan)):
        with pytest.raises(ValueError, match="a recording is digital silence, or has samples that are not numbers"):
            emotions.audio_vectors([noise(1.0), broken])


def test_a_text_has_to_say_something_and_is_cut_as_by_the_package(emotions: Emotions, tmp_path: Path):
    with pytest.raises(ValueError, match="a text is blank"):
        emotions.text_vectors(["hola", " "])
    tokenizer = load_cached_tokenizer(DEMO / "checkpoint" / "text_encoder", 512, tmp_path)
    for text in ("hola " * 3, "hola " * 600):
        assert emotions.tokenizer is not None
        assert emotions.tokenizer.encode(text).ids == tokenizer(text).ids


@pytest.mark.slow
def test_sizes_and_times_are_told(published, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    request = Request(str(published("text", "es")), mode="text", language="es")
    folder = tmp_path / "export"
    report = export(ExportConfig(request, str(folder), platforms=("cpu", "cuda")))
    for cost in report.costs:
        assert cost.bytes == (folder / cost.file).stat().st_size
        assert cost.load > 0 < cost.package
    table = render_export(report)
    assert "runs on cpu, cuda" in table
    assert all(cost.file in table for cost in report.costs)

    named = ["--mode=text", "--language=es", f"--model-id={request.model_id}", "--platforms=cpu"]
    assert main(["export", *named, f"--output={tmp_path / 'again'}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["platforms"] == ["cpu"]
    assert {cost["file"] for cost in told["costs"]} == {cost.file for cost in report.costs}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platforms=tpu,gpu"], "the platform 'gpu' is unknown; choose some of tpu, cuda, cpu, rocm"),
        (["--seconds=10,161"], "no program takes recordings of 161 s"),
        (["--seconds=0"], "no program takes recordings of 0 s"),
        (["--seconds=nan"], "no program takes recordings of nan s"),
        (["--precision=int8"], "unknown precision 'int8'"),
        (["--output=gs://bucket/folder"], "gs://bucket/folder is an address, and this has to be on a disk"),
    ],
)
def test_what_can_not_be_exported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    folder = tmp_path / "export"
    named = ["--mode=concat", "--language=es", f"--model-id={DEMO / 'checkpoint'}", f"--output={folder}"]
    assert main(["export", *named, *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not folder.exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "mine").write_text("kept")
    assert "exists already" in refusal(lambda: export(ExportConfig(REQUEST, str(folder))), InvalidInput)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_nothing_is_left_of_what_failed(tmp_path: Path, published, monkeypatch: pytest.MonkeyPatch):
    """A tokenizer without rules is found out after the programs are written."""
    monkeypatch.setattr("speech_emotion_jax.exporting.run.load_fast_tokenizer", lambda *_: None)
    request = Request(str(published("text", "es")), mode="text", language="es")
    message = refusal(lambda: export(ExportConfig(request, str(tmp_path / "export"), platforms=("cpu",))))
    assert "is written in Python" in message
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_batch_is_attended_as_a_batch_of_numbers():
    """What a program for CPUs, GPUs and TPUs computes does not hang on how many devices it was exported on."""
    from speech_emotion_jax.models.attention import attend

    (batch,) = jax_export.symbolic_shape("batch")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 100, 4, 8)).astype(np.float32) for _ in range(3)]
    mask, distances = np.arange(100)[None] < np.array([[100], [70], [3]]), rng.normal(size=(73, 8)).astype(np.float32)

    def attended(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
        return attend(
            query, key, value, mask, dtype=np.dtype("float32"), distances=jax.numpy.asarray(distances), left=64
        )

    shapes = [jax.ShapeDtypeStruct((batch, *each.shape[1:]), each.dtype) for each in (*arrays, mask)]
    program = jax_export.export(jax.jit(attended), platforms=("tpu", "cuda", "cpu"))(*shapes)
    expected = jax.jit(attended)(*arrays, mask)
    np.testing.assert_allclose(program.call(*arrays, mask), expected, rtol=0, atol=1e-6)
