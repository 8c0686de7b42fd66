"""Kept transcripts: found by content and settings, made otherwise, whole or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax import UnreadableInput
from speech_emotion_jax.whisper import Transcript
from speech_emotion_jax.whisper.transcript_cache import cached_transcripts

from .support.bad_input import RATE, noise
from .support.examples import examples

SETTINGS = {"whisper": "openai/whisper-base", "language": "es", "stride": (5.0, 5.0), "no_speech": None}


class Maker:
    """Makes transcripts that differ, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Transcript:
        self.made += 1
        return Transcript(text=f"¿Qué? {self.made}", language="es", duration=1.0, no_speech_probability=0.01)


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "here"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, noise(0.1), RATE)
    return path


def test_the_same_content_is_made_once(folder: Path, recording: Path, make: Maker):
    copied = recording.with_name("copy.flac")
    copied.write_bytes(recording.read_bytes())
    first = cached_transcripts(folder, recording, SETTINGS, make)
    for same in (recording, str(recording), copied, recording.read_bytes()):
        assert cached_transcripts(folder, same, SETTINGS, make) == first
    assert make.made == 1
    [file] = folder.iterdir()
    assert json.loads(file.read_text(encoding="utf-8")) == first


def test_the_order_of_settings_does_not_count(folder: Path, recording: Path, make: Maker):
    cached_transcripts(folder, recording, SETTINGS, make)
    cached_transcripts(folder, recording, dict(reversed(SETTINGS.items())), make)
    assert make.made == 1


def test_other_settings_or_content_are_made_anew(folder: Path, recording: Path, make: Maker):
    other = recording.read_bytes() + b"\0"
    found = [
        cached_transcripts(folder, recording, SETTINGS, make),
        cached_transcripts(folder, recording, SETTINGS | {"language": "en"}, make),
        cached_transcripts(folder, recording, SETTINGS | {"no_speech": 0.6}, make),
        cached_transcripts(folder, recording, {}, make),
        cached_transcripts(folder, other, SETTINGS, make),
    ]
    assert [each["text"] for each in found] == [f"¿Qué? {number}" for number in range(1, 6)]
    assert len(list(folder.iterdir())) == 5
    assert cached_transcripts(folder, recording, SETTINGS, make) == found[0]


ARRAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "array": lambda: {"array": noise(0.1), "sampling_rate": RATE},
    "other rate": lambda: {"array": noise(0.1), "sampling_rate": 8_000},
    "other samples": lambda: {"array": noise(0.1, seed=1), "sampling_rate": RATE},
    "other dtype": lambda: {"array": noise(0.1).view(np.int32), "sampling_rate": RATE},
    "other shape": lambda: {"array": noise(0.1).reshape(2, -1), "sampling_rate": RATE},
    "reversed": lambda: {"array": noise(0.1)[::-1], "sampling_rate": RATE},
}


def test_arrays_are_known_by_samples_and_rate(folder: Path, make: Maker):
    first = {name: cached_transcripts(folder, array(), SETTINGS, make) for name, array in ARRAYS.items()}
    assert make.made == len(ARRAYS)
    assert {name: cached_transcripts(folder, array(), SETTINGS, make) for name, array in ARRAYS.items()} == first
    assert make.made == len(ARRAYS)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[1]", b'{"text": "hola"}', b"\xff\xfe", b'"text"'], ids=lambda value: repr(value)
)
def test_a_broken_entry_is_written_anew(folder: Path, recording: Path, make: Maker, content: bytes):
    cached_transcripts(folder, recording, SETTINGS, make)
    [file] = folder.iterdir()
    file.write_bytes(content)
    assert cached_transcripts(folder, recording, SETTINGS, make)["text"] == "¿Qué? 2"
    assert cached_transcripts(folder, recording, SETTINGS, make)["text"] == "¿Qué? 2"
    assert list(folder.iterdir()) == [file]


@settings(max_examples=examples(50))
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    probability=st.floats(0, 1),
    spoken=st.none() | st.just("es"),
)
def test_what_is_found_is_what_was_made(
    tmp_path_factory: pytest.TempPathFactory, text: str, probability: float, spoken: str | None
):
    folder = tmp_path_factory.mktemp("kept")
    segments: list[Any] = [{"start": 0.0, "end": probability, "text": text, "words": []}]
    made = Transcript(text=text, language=spoken, duration=1.0, no_speech_probability=probability, segments=segments)
    assert cached_transcripts(folder, b"recording", {}, lambda: made) == made
    assert cached_transcripts(folder, b"recording", {}, refuse) == made


def refuse() -> Transcript:
    raise AssertionError("it is there already")


def test_a_recording_that_is_missing_is_refused_before_it_is_transcribed(folder: Path, make: Maker):
    with pytest.raises(
        UnreadableInput, match=r"^missing\.wav can't be read \(No such file or directory\); check its path$"
    ):
        cached_transcripts(folder, "missing.wav", SETTINGS, make)
    assert make.made == 0
    assert not folder.exists()


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_folder_that_cannot_be_written_is_refused(recording: Path, tmp_path: Path, make: Maker, below: str):
    occupied = tmp_path / "occupied"
    occupied.touch()
    with pytest.raises(
        UnreadableInput, match=r"the transcript can't be saved in .*occupied.*; name another folder"
    ) as told:
        cached_transcripts(occupied / below, recording, SETTINGS, make)
    assert "\n" not in str(told.value)


def test_a_failure_leaves_nothing_half_done(folder: Path, recording: Path, make: Maker):
    """Where the entry can't be put in its place, and where making it fails."""
    cached_transcripts(folder, recording, SETTINGS, make)
    [file] = folder.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(UnreadableInput, match="can't be saved"):
        cached_transcripts(folder, recording, SETTINGS, make)
    assert list(folder.iterdir()) == [file]

    file.rmdir()
    with pytest.raises(AssertionError):
        cached_transcripts(folder, recording, SETTINGS, refuse)
    assert list(folder.iterdir()) == []
