"""The command line, as a person and as a shell script meet it."""

import io
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile

import speech_emotion_jax
from speech_emotion_jax import InvalidInput, UnreadableInput, predict_emotion
from speech_emotion_jax.checkpoints.info import PACKAGES
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.inference import render_prediction
from speech_emotion_jax.runtime.progress import progress
from speech_emotion_jax.whisper import TranscriptionOptions, WhisperPipeline

from .support.bad_input import AUDIO, CASES, CONCAT, RATE, TEXT, Case, furnish, noise

COMMAND = Path(sysconfig.get_path("scripts")) / "speech-emotion-jax"

# Options that are not called like the parameter of predict_emotion, with "-" for "_".
OPTIONS = {
    "audio_path": "--audio",
    "model_config_path": "--model-config",
    "text_encoder_id": "--text-encoder",
    "whisper_id": "--whisper-model",
}


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def workplace(published, whisper_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with recordings and models, and caches that are empty."""
    (tmp_path / "work").mkdir()
    furnish(tmp_path / "work", published, whisper_tiny)
    monkeypatch.chdir(tmp_path / "work")
    for name in ("SPEECH_EMOTION_JAX_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays_loaded():
    yield
    speech_emotion_jax.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs the command line in this process."""

    def run_here(*arguments: str) -> Run:
        try:
            code = main(list(arguments))
        except SystemExit as left:  # argparse, after --help
            code = int(left.code or 0)
        printed = capsys.readouterr()
        return Run(code, str(printed.out), str(printed.err))

    return run_here


def predict_line(arguments: dict[str, Any]) -> list[str]:
    """The command for a call of predict_emotion."""
    line = ["predict"]
    for name, value in arguments.items():
        option = OPTIONS.get(name, "--" + name.replace("_", "-"))
        line.append(f"{option}={','.join(value) if isinstance(value, tuple) else value}")
    return line


def start(*arguments: str | bytes, **options: Any) -> subprocess.Popen[bytes]:
    """Starts the installed command."""
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen[bytes]([COMMAND, *arguments], **(streams | options))


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# Refusals


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Collect what predict_emotion raises when the command calls it."""
    errors = []

    def listening(*arguments: Any, **options: Any) -> Any:
        try:
            return predict_emotion(*arguments, **options)
        except Exception as error:
            errors.append(error)
            raise

    monkeypatch.setattr("speech_emotion_jax.inference.predict_emotion", listening)
    return errors


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_in_one_sentence(
    run: Callable[..., Run], raised: list[Exception], workplace: Path, case: Case
):
    """By predict_emotion with an error that says so, and by the command with that sentence alone."""
    before = files(workplace)
    code, out, err = run(*predict_line(dict(case.arguments)), "--json")
    assert (code, out) == (2, "")
    *progress, line = err.splitlines()
    assert not progress or case is CASES["broken tokenizer"], "a model was loaded before its input was checked"
    assert line.startswith("speech-emotion-jax: ")
    assert case.named in line
    assert case.remedy in line
    assert files(workplace) == before
    [error] = raised
    assert isinstance(error, InvalidInput | UnreadableInput)
    assert isinstance(error, ValueError | OSError)
    assert case.named in str(error)
    assert case.remedy in str(error)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ([], "VERB"),
        (["frobnicate"], "frobnicate"),
        (["predict", "--nope"], "--nope"),
        (["predict", "--audio"], "--audio"),
        (["predict", "--nope"], "see speech-emotion-jax predict --help"),
        (["predict", "--audio"], "see speech-emotion-jax predict --help"),
        (["train", "es-concad", "--manifest=m.csv", "--output=o"], "no recipe 'es-concad'; name a TOML file or one of"),
        (["--print-completion", "fish"], "no completion for 'fish'; choose bash, zsh, tcsh"),
        (["info", "--json", "nowhere"], "nowhere"),
        (["info", "speech.wav"], "speech.wav"),
        (["info", "bare"], "bare"),
        (["info", "unconfigured"], "config.json"),
    ],
    ids=" ".join,
)
def test_bad_lines_are_refused_in_one_sentence(run: Callable[..., Run], line: Sequence[str], named: str):
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"speech-emotion-jax: [^\n]*{re.escape(named)}[^\n]*\n", err)


@pytest.mark.process
def test_the_installed_command_refuses_like_that(workplace: Path):
    before = files(workplace)
    process = start("predict", "--mode=audio", "--model-id=audio-es", b"--audio=caf\xe9.wav")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err == rb"speech-emotion-jax: 'caf\udce9.wav' does not exist; check the path" + b"\n"
    assert files(workplace) == before


@pytest.mark.process
def test_platforms_that_jax_does_not_find_are_refused():
    process = start("info", env=os.environ | {"JAX_PLATFORMS": "rocm"})
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert re.fullmatch(rb"speech-emotion-jax: JAX finds no device [^\n]*JAX_PLATFORMS[^\n]*\n", err)


# Results


def test_json_is_the_result_and_nothing_else(run: Callable[..., Run]):
    code, out, err = run(*predict_line(AUDIO), "--json")
    assert code == 0
    assert out.count("\n") == 1
    assert json.loads(out) == predict_emotion(**AUDIO)
    assert all(re.fullmatch(r"Reading tensors: done|Reading tensors \.\.\.", line) for line in err.splitlines())


def test_a_person_sees_bars_from_the_most_probable_down(run: Callable[..., Run]):
    code, out, _ = run(*predict_line(AUDIO))
    assert code == 0
    scores = predict_emotion(**AUDIO)["scores"]
    rows = [re.fullmatch(r" *(\w+) +([\d.]+)% ?(█*)", line) for line in out.splitlines()]
    shown = [(row[1], float(row[2]) / 100, len(row[3])) for row in rows if row]
    assert [label for label, _, _ in shown] == sorted(scores, key=scores.__getitem__, reverse=True)
    for label, score, length in shown:
        assert score == pytest.approx(scores[label], abs=0.0006)
        assert length == round(40 * scores[label])


def test_a_chart_of_extremes():
    prediction: Any = {"top_label": "joy", "top_score": 1.0, "scores": {"fear": 0.0, "joy": 1.0}, "truncated": True}
    first, second, note = render_prediction(prediction, width=10).splitlines()
    assert first == " joy 100.0% ██████████"
    assert second == "fear   0.0%"
    assert note == "(cut: only the first 160 s of audio and 512 tokens of text are scored)"


def test_every_option_of_the_toolkit_and_ours(run: Callable[..., Run], workplace: Path):
    (workplace / "work" / "model.json").write_text(json.dumps({"es": {"concat": "nowhere/to/be/found"}}))
    line = predict_line(CONCAT | {"mode": "CONCAT", "language": "Es", "device": "CPU", "precision": "float32"})
    line += predict_line({"model_config_path": "model.json", "whisper_id": "any/id", "weights": "safetensors"})[1:]
    code, out, _ = run(*line, "--labels", "a,b, c,d,e,f", "--revision", "main", "--json")
    assert code == 0
    assert list(json.loads(out)["scores"]) == list("abcdef")


def test_text_cut_at_512_tokens_is_noted(run: Callable[..., Run]):
    code, out, err = run(*predict_line(TEXT | {"text": "qué alegría " * 300}), "--json")
    assert code == 0
    assert json.loads(out)["truncated"] is True
    [note] = [line for line in err.splitlines() if not line.startswith("Reading")]
    assert re.match(r"speech-emotion-jax: note: the text 'qué alegría .*only the first 512 are scored", note)


def test_labels_that_are_not_named_are_noted(run: Callable[..., Run], published, workplace: Path):
    folder = shutil.copytree(published("text", "es"), workplace / "unnamed")
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"] = {str(index): f"LABEL_{index}" for index in range(6)}
    (folder / "config.json").write_text(json.dumps(settings))
    code, out, err = run(*predict_line(TEXT | {"model_id": folder}), "--json")
    assert code == 0
    assert json.loads(out) == predict_emotion(**TEXT)
    [note] = [line for line in err.splitlines() if not line.startswith("Reading")]
    assert re.fullmatch(r"speech-emotion-jax: note: .*published order: anger, disgust, .*", note)


def test_verbose_names_the_compilations(run: Callable[..., Run]):
    speech_emotion_jax.close()
    code, _, err = run(*predict_line(TEXT), "--verbose")
    assert code == 0
    assert re.search(r"compiling the text encoder's input for 1 x \d+ \(1 shapes so far\)", err)


def test_what_stdout_cannot_encode_does_not_stop_it(monkeypatch: pytest.MonkeyPatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    labels = "ärger,b,c,d,e,f"
    assert main([*predict_line(TEXT), "--labels", labels]) == 0
    assert re.search(rb"^\?rger +[\d.]+% \?+$", out.getvalue(), re.MULTILINE)
    out.truncate(0)
    assert main([*predict_line(TEXT), "--labels", labels, "--json"]) == 0
    assert list(json.loads(out.getvalue().strip(b"\0"))["scores"]) == labels.split(",")


# Transcription

TRANSCRIBE = ("transcribe", "--language=es", "--model-id=whisper")


@pytest.fixture(scope="module")
def transcribed(whisper_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What the tiny random Whisper takes `noise(1.0, seed)` for, by the pipeline itself."""
    pipeline = WhisperPipeline.from_pretrained(whisper_tiny, device="cpu")
    path = tmp_path_factory.mktemp("transcribed") / "speech.wav"

    def transcript(seed: int = 0, **options: Any) -> dict[str, Any]:
        soundfile.write(path, noise(1.0, seed), RATE)
        [found] = pipeline.transcribe([path], TranscriptionOptions(language="es", **options))
        return dict(found)

    return transcript


@pytest.fixture
def several(workplace: Path) -> Path:
    """More recordings, in a folder of their own."""
    (workplace / "work" / "other").mkdir()
    for seed, name in enumerate(("speech.wav", "more.flac")):
        soundfile.write(workplace / "work" / "other" / name, noise(1.0, seed), RATE)
    return workplace / "work"


def test_transcribe_prints_the_text_alone(run: Callable[..., Run], transcribed: Callable[..., dict[str, Any]]):
    code, out, err = run(*TRANSCRIBE, "speech.wav")
    assert (code, out) == (0, transcribed()["text"] + "\n")
    assert out.strip()
    *steps, done = err.splitlines()
    assert done == "Transcribing 1 recording: done"
    assert all(re.fullmatch(r"(Reading|Transcribing) [\w ]+(: done| \.\.\.)", step) for step in steps)


@pytest.mark.slow
def test_transcribe_prints_a_line_of_json_for_each(
    run: Callable[..., Run], several: Path, transcribed: Callable[..., dict[str, Any]]
):
    code, out, _ = run(*TRANSCRIBE, "--format=json", "other/more.flac", "speech.wav")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    for line, audio, alone in ((first, "other/more.flac", transcribed(1)), (second, "speech.wav", transcribed())):
        assert line.pop("no_speech_probability") == pytest.approx(alone.pop("no_speech_probability"), rel=1e-3)
        assert line == {"audio": audio, **alone}
    assert first.keys() == {"audio", "text", "language", "duration"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_transcribe_writes_subtitles(run: Callable[..., Run], transcribed: Callable[..., dict[str, Any]], format: str):
    code, out, _ = run(*TRANSCRIBE, f"--format={format}", "speech.wav")
    segments = transcribed(timestamps="segment")["segments"]
    assert code == 0
    assert out.count(" --> ") == len(segments) > 0
    assert out.startswith("WEBVTT\n\n" if format == "vtt" else "1\n00:00:")
    shown = [line for line in out.splitlines() if line and "-->" not in line and line != "WEBVTT"]
    said = [line for line in shown if not line.isdecimal()] if format == "srt" else shown
    assert "".join(said) == "".join(segment["text"].strip() for segment in segments)


@pytest.mark.slow
def test_transcribe_times_words(run: Callable[..., Run], transcribed: Callable[..., dict[str, Any]]):
    code, out, _ = run(*TRANSCRIBE, "--format=json", "--timestamps=word", "speech.wav")
    assert code == 0
    assert json.loads(out) == {"audio": "speech.wav", **transcribed(timestamps="word")}
    assert all(segment["words"] for segment in json.loads(out)["segments"])


@pytest.mark.slow
def test_transcribe_writes_a_file_for_each(
    run: Callable[..., Run], several: Path, transcribed: Callable[..., dict[str, Any]]
):
    code, out, _ = run(*TRANSCRIBE, "--output=made/here", "other/speech.wav", "other/more.flac")
    assert (code, out) == (0, "wrote 2 of 2 transcripts to made/here\n")
    folder = several / "made" / "here"
    assert {path.name for path in folder.iterdir()} == {"speech.txt", "more.txt"}
    assert (folder / "speech.txt").read_text(encoding="utf-8") == transcribed()["text"] + "\n"
    assert (folder / "more.txt").read_text(encoding="utf-8") == transcribed(1)["text"] + "\n"

    code, _, _ = run(*TRANSCRIBE, "--format=json", "--output=made/here", "other/speech.wav")
    assert code == 0
    assert json.loads((folder / "speech.json").read_text(encoding="utf-8")) == {
        "audio": "other/speech.wav",
        **transcribed(),
    }


@pytest.mark.slow
def test_several_texts_say_whose_they_are(
    run: Callable[..., Run], several: Path, transcribed: Callable[..., dict[str, Any]]
):
    code, out, _ = run(*TRANSCRIBE, "speech.wav", "other/more.flac")
    assert (code, out) == (0, f"speech.wav: {transcribed()['text']}\nother/more.flac: {transcribed(1)['text']}\n")


@pytest.mark.parametrize("output", [None, "made"])
def test_a_recording_that_fails_does_not_stop_the_others(run: Callable[..., Run], workplace: Path, output: str | None):
    line = [*TRANSCRIBE, "--format=json", "speech.wav", "truncated.wav", "silence.wav"]
    code, out, err = run(*line, *([] if output is None else [f"--output={output}"]))
    assert code == 3
    refused, summary = [text for text in err.splitlines() if text.startswith("speech-emotion-jax: ")]
    assert re.search(r"truncated\.wav is truncated", refused)
    assert "1 of 3 recordings" in summary
    if output is None:
        spoken, error, silent = map(json.loads, out.splitlines())
        assert error.keys() == {"audio", "error"}
        assert refused.endswith(error["error"])
    else:
        folder = workplace / "work" / output
        assert {path.name for path in folder.iterdir()} == {"speech.json", "silence.json"}
        spoken, silent = (json.loads((folder / f"{name}.json").read_text()) for name in ("speech", "silence"))
    assert spoken["text"]
    assert silent["text"] == ""
    assert 0 <= silent["no_speech_probability"] <= 1


def test_nothing_transcribed_is_a_failure(run: Callable[..., Run]):
    code, out, err = run(*TRANSCRIBE, "truncated.wav", "letter.wav")
    assert (code, out) == (2, "")
    said = [text for text in err.splitlines() if text.startswith("speech-emotion-jax: ")]
    assert [name in text for name, text in zip(("truncated", "letter", "no recording"), said, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ([], "AUDIO"),
        (["missing.wav", "speech.wav", "absent.wav"], "missing.wav, absent.wav: there is no such file"),
        (["audio-es"], "audio-es: that is a folder"),
        (["speech.wav", "--format=doc"], "the format 'doc' is unknown; use text, json, srt, vtt"),
        (["speech.wav", "short.wav", "--format=srt"], "2 recordings make 2 srt files; name a folder by --output"),
        (["speech.wav", "other/speech.wav", "--output=made"], "several recordings would be written to made/speech.txt"),
        (["speech.wav", "speech.wav", "--output=made"], "several recordings would be written to made/speech.txt"),
        (["speech.wav", "--output=letter.wav"], "letter.wav is a file; name a folder by --output"),
        (["speech.wav", "--output=letter.wav/here"], "letter.wav is a file; name a folder by --output"),
        (["speech.wav", "--output=made", "--beams=0"], "the number of beams is 0"),
        (
            ["speech.wav", "--timestamps=letter", "--format=json"],
            "the timestamps 'letter' are unknown",
        ),
        (["speech.wav", "--timestamps=word"], "no place for --timestamps"),
        (["speech.wav", "--beams=0"], "the number of beams is 0"),
        (["speech.wav", "--batch-size=0"], "batch_size is 0"),
        (["speech.wav", "--condition-on-previous"], "(--condition-on-previous) needs sequential (--sequential)"),
        (
            ["speech.wav", "--language=xx", "--model-id=models/not/here"],
            "Whisper doesn't know the language 'xx'; use one",
        ),
        ([], "name recordings (AUDIO), or a manifest by --manifest"),
        (["--manifest=untold.csv"], "--manifest takes --output NEW.csv"),
        (["speech.wav", "--manifest=untold.csv", "--output=new.csv"], "--manifest takes --output NEW.csv"),
        (["--manifest=missing.csv", "--output=new.csv"], "missing.csv"),
        (["--manifest=missing.csv", "--output=new.tsv"], "new.tsv can't be written; name a file that ends in .csv"),
        (["speech.wav", "--model-id=audio-es"], "not a Whisper checkpoint"),
        (["speech.wav", "--model-id=models/not/here"], "models/not/here does not exist"),
        (["speech.wav", "--device=banana"], "'banana'"),
        (["speech.wav", "--precision=float8"], "'float8'"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_transcribe_refuses_in_one_sentence(run: Callable[..., Run], several: Path, line: Sequence[str], named: str):
    before = files(several)
    code, out, err = run(*TRANSCRIBE, *line)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"speech-emotion-jax: [^\n]*{re.escape(named)}[^\n]*\n", err)
    assert files(several) == before


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--language=german", "doesn't know the language 'german'; use one of en, es, fr"),
        ("--task=summarise", "the task 'summarise' is unknown; use transcribe or translate"),
    ],
)
def test_transcribe_refuses_what_the_checkpoint_cannot(run: Callable[..., Run], option: str, named: str):
    code, out, err = run(*TRANSCRIBE, "speech.wav", option)
    assert (code, out) == (2, "")
    assert named in err.splitlines()[-1]


def test_predict_several_recordings_and_folders(run: Callable[..., Run], workplace: Path):
    """One line each, in order; mode and language are those of the converted folder."""
    convert = ("convert", "audio-es", "converted", "--mode=audio", "--language=es")
    assert run(*convert).code == 0
    Path("folder/inner").mkdir(parents=True)
    for name in ("folder/b.wav", "folder/inner/a.WAV", "folder/.hidden.wav"):
        shutil.copy("speech.wav", name)
    Path("folder/notes.txt").write_text("not a recording")
    given = ["--model-id=converted", "--audio", "speech.wav", "empty.wav", "folder"]
    code, out, err = run("predict", *given, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row.pop("audio") for row in rows]) == (
        3,
        ["speech.wav", "empty.wav", "folder/b.wav", "folder/inner/a.WAV"],
    )
    expected = predict_emotion(**AUDIO)
    assert rows[0] == rows[2] == rows[3] == expected
    assert "empty.wav is empty" in rows[1]["error"]
    assert "1 of 4 recordings could not be scored" in err
    code, out, _ = run("predict", "--model-id=converted", "--audio", "folder", "--channel=0")
    assert (code, len(out.splitlines())) == (0, 2)
    assert out.startswith(f"folder/b.wav: {expected['top_label']} {expected['top_score']:.1%}")
    for wrong, message in (
        (["folder", "--text=a"], "--text is what is said in one recording"),
        (["speech.wav", "--channel=1"], "the recording has 1 channel; leave the channel out"),
        (["converted"], "converted is a directory; give a regular audio file"),
    ):
        code, out, err = run("predict", "--model-id=converted", "--audio", *wrong)
        assert (code, out) == (2, "")
        assert message in err


def test_predict_says_what_it_heard(run: Callable[..., Run], transcribed: Callable[..., dict[str, Any]]):
    spoken = {name: value for name, value in CONCAT.items() if name != "text"} | {"whisper_id": "whisper"}
    code, out, _ = run(*predict_line(spoken), "--json")
    assert code == 0
    assert json.loads(out)["text"] == transcribed()["text"]
    code, out, _ = run(*predict_line(spoken))
    assert (code, out.splitlines()[0]) == (0, f"«{transcribed()['text']}»")


def test_predict_refuses_silence_without_text(run: Callable[..., Run]):
    silent = TEXT | {"audio_path": "silence.wav", "whisper_id": "whisper"}
    code, out, err = run(*predict_line({name: value for name, value in silent.items() if name != "text"}), "--json")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"speech-emotion-jax: nothing that is said in silence\.wav .*--text.*", err.splitlines()[-1])


def test_predict_keeps_transcripts_where_it_is_told(run: Callable[..., Run], workplace: Path):
    spoken = {name: value for name, value in CONCAT.items() if name != "text"} | {"whisper_id": "whisper"}
    code, out, _ = run(*predict_line(spoken), "--transcripts=kept", "--json")
    assert code == 0
    [entry] = (workplace / "work" / "kept").iterdir()
    assert json.loads(entry.read_text(encoding="utf-8"))["text"] == json.loads(out)["text"]


# Streams of a real process


@pytest.mark.process
def test_a_script_gets_a_result_and_plain_log_lines():
    process = start(*predict_line(TEXT), env=os.environ | {"LC_ALL": "C", "LANG": "C"})
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "█" in out.decode()
    assert err == b"Reading tensors ...\nReading tensors: done\n"


@pytest.mark.process
def test_a_terminal_gets_a_bar_and_stdout_stays_clean():
    ours, theirs = pty.openpty()
    process = start(*predict_line(TEXT), "--json", stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other end was closed
        pass
    out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert json.loads(out)["top_label"]
    assert out.count(b"\n") == 1
    assert b"\x1b[" in shown
    for step in ("Reading tensors", "Compiling the text encoder", "━"):
        assert step.encode() in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO(), None], ids=["terminal", "file", "closed"])
def test_what_is_printed_during_a_step_goes_to_stdout(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("Reading", 2) as advance:
        advance(1)
        print("result")
    assert capsys.readouterr().out == "result\n"
    assert not isinstance(stderr, Terminal) or "Reading" in stderr.getvalue()


@pytest.mark.process
def test_a_reader_that_leaves_early_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    process = start("info", stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told():
    with open("/dev/full", "w") as full:
        process = start("info", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(rb"speech-emotion-jax: the output: No space left on device; make room[^\n]*\n", err)


@pytest.mark.process
def test_closed_streams_are_no_error():
    line = f"'{COMMAND}' info speech.wav 2>&- ; echo $? ; '{COMMAND}' info audio-es >&- ; echo $?"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2\n0\n", "")


# A shell's background jobs, and so their children, ignore Ctrl-C. Runs the command that follows so that it does not.
HEARS_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.process
def test_interrupting_leaves_no_traceback():
    command = [sys.executable, "-c", HEARS_CTRL_C, COMMAND, *predict_line(AUDIO)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"Reading tensors ...\n"  # now it loads, then compiles for a second
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


DROPPED = """
import os, signal, sys, time
from speech_emotion_jax.checkpoints import info
from speech_emotion_jax import checkpoints
from speech_emotion_jax.cli import main as cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Callback:
    def __del__(self):  # Python drops what is raised here
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def callback():
    Callback()

def library():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except BaseException:
        pass

def cleaned():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    finally:
        time.sleep(2)
        print("cleaned up")

def work():
    {dropping}()
    time.sleep(30)
    print("was not interrupted")

checkpoints.describe_installation = work
sys.exit(cli.main(["info"]))
"""


@pytest.mark.process
@pytest.mark.parametrize(("dropping", "said"), [("callback", ""), ("library", ""), ("cleaned", "cleaned up\n")])
def test_an_interrupt_is_heard_wherever_it_falls(dropping: str, said: str):
    """And what is cleaned up after it is not interrupted again."""
    script = DROPPED.format(dropping=dropping)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, said, "")


LATE = """
import os, signal, sys, time
from speech_emotion_jax.checkpoints import info
from speech_emotion_jax import checkpoints
from speech_emotion_jax.cli import main as cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def with_a_last_look(change):
    def changed(*arguments):
        if arguments != (signal.ITIMER_REAL, 0.5) and callable(signal.getsignal(signal.SIGALRM)):
            os.kill(os.getpid(), signal.SIGALRM)
        return change(*arguments)
    return changed

def caught():
    os.kill(os.getpid(), signal.SIGINT)

def dropped():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass

def work():
    signal.signal, signal.setitimer = map(with_a_last_look, (signal.signal, signal.setitimer))
    {hearing}()

checkpoints.describe_installation = work
code = cli.main(["info"])
time.sleep(1)
sys.exit(code)
"""


@pytest.mark.process
@pytest.mark.parametrize("hearing", ["caught", "dropped"])
def test_an_interrupt_is_not_raised_again_after_it_was_heard(hearing: str):
    """However late the alarm falls, and none goes off when the command has ended."""
    done = subprocess.run([sys.executable, "-c", LATE.format(hearing=hearing)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# Start


@pytest.mark.parametrize("line", [["--help"], ["predict", "--help"]], ids=" ".join)
def test_help_answers_at_once(line: list[str]):
    """In seconds of the processor, which a busy machine does not change."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = start(*line)
        out, err = process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (process.returncode, err) == (0, b"")
        assert b"usage: speech-emotion-jax" in out
    assert min(seconds) < 1.5


def test_help_names_every_option(run: Callable[..., Run]):
    code, out, err = run("predict", "--help")
    assert (code, err) == (0, "")
    ours = ["--text-encoder", "--whisper-model", "--precision", "--weights", "--labels", "--revision", "--json"]
    toolkit = ["--audio", "--text", "--mode", "--language", "--model-id", "--model-config", "--device"]
    assert [option for option in [*toolkit, *ours] if f"  {option}" not in out] == []


def test_version(run: Callable[..., Run]):
    assert run("--version") == (0, f"speech-emotion-jax {speech_emotion_jax.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_know_the_verbs_and_their_options(run: Callable[..., Run], shell: str):
    pytest.importorskip("shtab", reason="the extra completion")
    code, out, err = run("--print-completion", shell)
    assert (code, err) == (0, "")
    assert "transcribe" in out
    assert "whisper-model" in out


LIGHT = """
import sys
import speech_emotion_jax
from speech_emotion_jax.cli.main import main
assert "predict_emotion" in dir(speech_emotion_jax)
for line in (["--help"], ["predict", "--help"]):
    try:
        main(line)
    except SystemExit:
        pass
assert main(["predict", "--mode"]) == 2
heavy = {"jax", "flax", "numpy", "transformers", "torch", "soundfile", "huggingface_hub", "rich", "safetensors"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def test_nothing_heavy_is_imported_before_a_verb_runs():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_names_what_it_offers():
    namespace: dict[str, Any] = {}
    exec("from speech_emotion_jax import *", namespace)
    names = set(speech_emotion_jax.__all__)
    assert names == namespace.keys() - {"__builtins__"}
    assert names <= set(dir(speech_emotion_jax))
    assert {"predict_emotion", "EmotionPipeline", "close"} <= names
    with pytest.raises(AttributeError, match="'speech_emotion_jax' has no attribute 'predict_emotions'"):
        _ = speech_emotion_jax.predict_emotions  # pyright: ignore[reportAttributeAccessIssue]


# info


def test_info_of_the_installation(run: Callable[..., Run], workplace: Path):
    code, out, err = run("info", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in report["versions"]] == list(PACKAGES)
    assert "cpu:0 cpu" in report["devices"]
    assert report["converted"] == str(workplace / "caches" / "SPEECH_EMOTION_JAX_CACHE")
    assert report["kept there"] == []
    code, out, err = run("info")
    assert (code, err) == (0, "")
    assert re.search(r"^kept there +none$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("folder", "mode"),
    [
        ("audio-es", "audio or mean (their tensors are the same; only its author can say which)"),
        ("concat-es", "concat"),
        ("multihead-es", "multihead"),
        ("text-es", "text"),
        ("text_encoder-es", "none: no emotion checkpoint"),
    ],
)
def test_info_of_a_published_folder(run: Callable[..., Run], folder: str, mode: str):
    code, out, err = run("info", folder, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["mode"] == mode
    assert report["files"] == ["model.safetensors"]
    named = "not named" if folder.startswith("text_encoder") else "anger, disgust, fear, joy, neutral, sadness"
    assert report["labels"] == named


@pytest.mark.parametrize("table", [["anger", "joy"], {"first": "anger"}, None])
def test_info_of_a_folder_whose_labels_are_not_numbered(run: Callable[..., Run], workplace: Path, table: object):
    settings = workplace / "work" / "garbled" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"id2label": table}))
    code, out, _ = run("info", "garbled", "--json")
    assert code == 0
    assert json.loads(out)["labels"] == "not named"


def test_a_converted_folder_predicts_the_same_and_says_what_it_is(run: Callable[..., Run]):
    options = ["--mode=concat", "--language=es", "--text-encoder=text_encoder-es"]
    assert run("convert", "concat-es", "kept", *options)[:2] == (0, "wrote kept\n")
    code, out, _ = run("info", "kept", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["mode"] == "concat"
    assert report["language"] == "es"
    assert report["labels"] == "anger, disgust, fear, joy, neutral, sadness"
    assert "schema" in report["folder"]
    for part, source in (("model", "concat-es"), ("text encoder", "text_encoder-es")):
        assert source in report[part][0]
        assert re.match(r"model\.safetensors sha256 [0-9a-f]{64}", report[part][1])

    converted = CONCAT | {"model_id": "kept"}
    del converted["text_encoder_id"]
    code, out, _ = run(*predict_line(converted), "--json")
    assert code == 0
    assert json.loads(out) == predict_emotion(**CONCAT)
    for change, remedy in (({"mode": "mean"}, "--mode concat"), ({"language": "en"}, "--language es")):
        code, out, err = run(*predict_line(converted | change))
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert remedy in err
