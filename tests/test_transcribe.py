"""Transcription with the real whisper-base, on the demo's recordings: Spanish, spoken by a machine."""

import csv
import subprocess
import sys
import tracemalloc
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speech_emotion_jax
from speech_emotion_jax.audio.waveform import SAMPLE_RATE, load
from speech_emotion_jax.audio.windows import read_windows
from speech_emotion_jax.errors import InvalidInput, SpeechEmotionError, UnreadableInput
from speech_emotion_jax.evaluation import transcribe_manifest
from speech_emotion_jax.whisper import FALLBACK, Transcript, TranscriptionOptions, WhisperPipeline

DEMO = Path(speech_emotion_jax.__file__).parent / "demo_data"
with (DEMO / "manifest.csv").open(encoding="utf-8", newline="") as _file:
    RECORDINGS = list(csv.DictReader(_file))
PATHS = [str(DEMO / each["filename"]) for each in RECORDINGS]
SPANISH = TranscriptionOptions(language="es")


@pytest.fixture(scope="module")
def pipeline(whisper_base: Path) -> WhisperPipeline:
    return WhisperPipeline.from_pretrained(whisper_base, device="cpu")


@pytest.fixture(scope="module")
def alone(pipeline: WhisperPipeline) -> list[Transcript]:
    """Each recording as a job of its own."""
    return [pipeline.transcribe([path], SPANISH)[0] for path in PATHS]


@pytest.fixture(scope="module")
def joined() -> dict:
    """The recordings one after the other, half a second between them, to more than two windows: 70 s."""
    clips = [np.pad(load(path), (0, SAMPLE_RATE // 2)) for path in PATHS]
    waveform = np.concatenate(clips * 8)[: 70 * SAMPLE_RATE]
    return {"array": waveform, "sampling_rate": SAMPLE_RATE}


def similarity(one: str, two: str) -> float:
    return SequenceMatcher(None, one.lower(), two.lower(), autojunk=False).ratio()


def test_it_writes_what_is_said(alone: list[Transcript]):
    said = " ".join(each["transcription"] for each in RECORDINGS)
    written = " ".join(each["text"] for each in alone)
    assert similarity(said, written) > 0.7
    assert all(each["language"] == "es" and each["no_speech_probability"] < 0.6 for each in alone)
    assert [each["duration"] for each in alone] == [round(len(load(path)) / SAMPLE_RATE, 3) for path in PATHS]


def test_a_recording_does_not_depend_on_its_batch(pipeline: WhisperPipeline, alone: list[Transcript]):
    together = pipeline.transcribe(PATHS, SPANISH)
    assert [each["text"] for each in together] == [each["text"] for each in alone]


def test_a_broken_recording_does_not_stop_the_others(
    pipeline: WhisperPipeline, alone: list[Transcript], tmp_path: Path
):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF and nothing else")
    first, error, last = pipeline.transcribe_each([PATHS[0], str(broken), PATHS[1]], SPANISH)
    assert isinstance(error, UnreadableInput)
    assert "broken.wav" in str(error)
    texts = [each["text"] for each in (first, last) if not isinstance(each, SpeechEmotionError)]
    assert texts == [each["text"] for each in alone[:2]]
    with pytest.raises(UnreadableInput, match=r"broken\.wav"):
        pipeline.transcribe([PATHS[0], str(broken)], SPANISH)


def test_where_nothing_is_said_nothing_is_written(pipeline: WhisperPipeline):
    random = np.random.default_rng(0)
    seconds = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in (220.0, 277.2, 329.6))
    sounds = {
        "digital silence": np.zeros(5 * SAMPLE_RATE),
        "the last bit": random.choice([-1, 1], 5 * SAMPLE_RATE) / 32768,
        "noise": random.normal(0, 0.01, 5 * SAMPLE_RATE),
        "loud noise": random.normal(0, 0.2, 5 * SAMPLE_RATE),
        "music": 0.1 * chord * (1 + np.sin(2 * np.pi * 2 * seconds)),
        "0.1 s": random.normal(0, 0.01, SAMPLE_RATE // 10),
        "one sample": np.zeros(1),
    }
    sources = [{"array": sound.astype(np.float32), "sampling_rate": SAMPLE_RATE} for sound in sounds.values()]
    for name, heard in zip(sounds, pipeline.transcribe(sources, SPANISH), strict=True):
        assert heard["text"] == "", name
        assert heard["no_speech_probability"] > 0.6, name


def test_the_language_is_recognised(pipeline: WhisperPipeline, joined: dict):
    silence = {"array": np.zeros(SAMPLE_RATE, np.float32), "sampling_rate": SAMPLE_RATE}
    spoken, silent = pipeline.transcribe([{**joined, "array": joined["array"][: 25 * SAMPLE_RATE]}, silence])
    assert spoken["language"] == "es"
    assert silent["language"] is None


@pytest.mark.parametrize("sequential", [False, True])
def test_the_language_is_not_that_of_the_noise_before_the_speech(pipeline: WhisperPipeline, sequential: bool):
    speech = np.concatenate([load(path) for path in PATHS])
    hiss = np.random.default_rng(7).uniform(-0.01, 0.01, 31 * SAMPLE_RATE)
    recording = {"array": np.float32(np.concatenate([hiss, speech])), "sampling_rate": SAMPLE_RATE}
    [transcript] = pipeline.transcribe([recording], TranscriptionOptions(sequential=sequential, max_tokens=4))
    assert transcript["language"] == "es"


def test_translation_is_another_text(pipeline: WhisperPipeline, alone: list[Transcript]):
    (english,) = pipeline.transcribe(PATHS[:1], TranscriptionOptions(language="es", task="translate"))
    assert english["text"] != alone[0]["text"]


def test_words_begin_with_the_speech_and_do_not_overlap(pipeline: WhisperPipeline):
    """After a pause a word begins with its sound, also where the same sentence is said again in the next window."""

    def quiet(seconds: float) -> np.ndarray:
        return np.random.default_rng(1).normal(size=round(seconds * SAMPLE_RATE)) * 0.0005

    clips = [load(path) for path in PATHS]
    sad, joy = (load(DEMO / f"{name}.flac") for name in ("sadness", "joy"))
    pauses = np.concatenate([quiet(5), sad, quiet(4), joy])
    dense = np.concatenate([np.pad(clip, (0, SAMPLE_RATE // 4)) for clip in clips * 4])[: 45 * SAMPLE_RATE]
    sources = [{"array": np.float32(each), "sampling_rate": SAMPLE_RATE} for each in (pauses, dense)]
    transcripts = pipeline.transcribe(sources, TranscriptionOptions(language="es", timestamps="word"))
    first, second = transcripts[0].get("segments", [])
    assert first["start"] == pytest.approx(5.0, abs=0.5)
    assert second["start"] == pytest.approx(9.0 + len(sad) / SAMPLE_RATE, abs=0.5)
    for transcript in transcripts:
        segments = transcript.get("segments", [])
        words = [word for segment in segments for word in segment.get("words", [])]
        assert all(word["start"] < word["end"] for word in words)
        assert all(one["end"] <= two["start"] for one, two in pairwise(words))
        assert all(one["end"] <= two["start"] for one, two in pairwise(segments))


@pytest.mark.parametrize("sequential", [False, True])
def test_a_long_recording(pipeline: WhisperPipeline, joined: dict, sequential: bool):
    said = " ".join([each["transcription"] for each in RECORDINGS] * 8)
    options = TranscriptionOptions(language="es", timestamps="word", sequential=sequential)
    seconds: list[float] = []
    (long,) = pipeline.transcribe_each([joined], options, seconds.append)
    assert not isinstance(long, SpeechEmotionError)
    assert similarity(said[: len(long["text"])], long["text"]) > 0.6
    assert sum(seconds) == pytest.approx(70.0)
    segments = long.get("segments", [])
    assert "".join(segment["text"] for segment in segments).strip() == long["text"]
    starts = [segment["start"] for segment in segments]
    assert starts == sorted(starts)
    assert all(0 <= segment["start"] <= segment["end"] <= 70.0 for segment in segments)
    for segment in segments:
        words = segment.get("words", [])
        assert "".join(word["text"] for word in words) == segment["text"]
        times = [time for word in words for time in (word["start"], word["end"])]
        assert times == sorted(times)
    spread = [segment["start"] for segment in segments if segment["start"] > 35]
    assert spread, "the second half has segments, too"


def test_sequential_windows_may_be_prompted_with_the_text_before(pipeline: WhisperPipeline, joined: dict):
    options = TranscriptionOptions(language="es", sequential=True, condition_on_previous=True)
    (long,) = pipeline.transcribe([joined], options)
    said = " ".join([each["transcription"] for each in RECORDINGS] * 8)
    assert similarity(said[: len(long["text"])], long["text"]) > 0.5


def test_beams_and_fallback_keep_good_text(pipeline: WhisperPipeline, alone: list[Transcript]):
    (beams,) = pipeline.transcribe(PATHS[:1], TranscriptionOptions(language="es", beams=3))
    assert similarity(beams["text"], alone[0]["text"]) > 0.7
    (sure,) = pipeline.transcribe(PATHS[:1], TranscriptionOptions(language="es", temperatures=FALLBACK))
    assert sure["text"] == alone[0]["text"]


def test_fallback_is_for_what_fails(pipeline: WhisperPipeline, alone: list[Transcript]):
    # No text has a mean log-probability above 0: every temperature is tried, and the last one's text remains.
    drawn = {
        seed: pipeline.transcribe(
            PATHS[:1],
            TranscriptionOptions(
                language="es", temperatures=(0.0, 1.5), log_probability=0.0, no_speech=None, max_tokens=20, seed=seed
            ),
        )[0]["text"]
        for seed in (1, 2, 1)
    }
    assert set(drawn.values()) != {alone[0]["text"]}
    assert drawn[1] != drawn[2]


def test_options_are_checked():
    for wrong, said in (
        ({"timestamps": "letter"}, "timestamps 'letter' are unknown"),
        ({"beams": 0}, "number of beams is 0"),
        ({"temperatures": ()}, "give at least one"),
        ({"window": 31.0}, "windows of 31 s"),
        ({"window": 10.0, "stride": (5.0, 5.0)}, "strides of 5 and 5 s"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"condition_on_previous": True}, "needs sequential"),
    ):
        with pytest.raises(InvalidInput, match=said):
            TranscriptionOptions(**wrong)


@pytest.mark.slow
def test_two_hours_are_read_in_bounded_memory(tmp_path: Path):
    path = tmp_path / "long.flac"
    minute = np.random.default_rng(0).normal(0, 300, 60 * 8_000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(120):
            file.write(minute)
    tracemalloc.start()
    try:
        windows = samples = 0
        for window in read_windows(str(path), 30 * SAMPLE_RATE, 5 * SAMPLE_RATE, 5 * SAMPLE_RATE):
            windows += 1
            samples = window.start + len(window.waveform)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert samples == 7_200 * SAMPLE_RATE
    assert windows == 360
    assert peak < 30e6


@pytest.mark.process
def test_four_devices_share_a_batch(whisper_tiny: Path):
    code = f"""
import jax, numpy as np
from speech_emotion_jax.whisper import TranscriptionOptions, WhisperPipeline
random = np.random.default_rng(0)
sounds = [dict(array=random.normal(0, 0.1, 16_000).astype(np.float32), sampling_rate=16_000) for _ in range(6)]
texts = []
for device in (None, "cpu"):
    pipeline = WhisperPipeline.from_pretrained({str(whisper_tiny)!r}, device=device)
    programs = pipeline.programs
    heard = programs.encode(programs.features([each["array"] for each in sounds]))
    assert len(heard.keys[0].sharding.device_set) == programs.mesh.size, heard.keys[0].sharding
    assert heard.keys[0].shape[0] == 8
    assert not heard.keys[0].is_fully_replicated or programs.mesh.size == 1
    for beams in (1, 2):
        options = TranscriptionOptions(max_tokens=6, no_speech=None, beams=beams)
        texts.append([each["text"] for each in pipeline.transcribe(sounds, options)])
    sizes = programs.mesh.size
    print(sizes)
assert texts[:2] == texts[2:], texts
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "1"]


def test_a_manifest_gets_texts(pipeline: WhisperPipeline, alone: list[Transcript], tmp_path: Path):
    """Rows with a text keep it; a broken recording has none and is told."""
    (tmp_path / "untold.csv").write_text(
        f"path,mood,transcription\n{RECORDINGS[0]['filename']},anger,\n{RECORDINGS[1]['filename']},joy,dicho\n"
    )
    result = transcribe_manifest(
        str(tmp_path / "untold.csv"),
        str(tmp_path / "told.csv"),
        lambda: pipeline,
        SPANISH,
        audio_root=str(DEMO),
        columns={"filename": "path", "label": "mood"},
        time_unit="s",
    )
    assert (result.clips, result.transcribed, result.failures) == (2, 1, [])
    with (tmp_path / "told.csv").open(encoding="utf-8", newline="") as file:
        told = list(csv.DictReader(file))
    assert [each["transcription"] for each in told] == [alone[0]["text"], "dicho"]
    assert [list(each)[:2] for each in told] == [["path", "mood"]] * 2
    with pytest.raises(InvalidInput, match=r"all clips of .* have a text"):
        transcribe_manifest(
            str(tmp_path / "told.csv"),
            str(tmp_path / "again.csv"),
            lambda: pipeline,
            SPANISH,
            audio_root=str(DEMO),
            columns={"filename": "path", "label": "mood"},
            time_unit="s",
        )
