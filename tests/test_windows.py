"""Recordings cut into windows: each sample where it belongs, little memory, errors where they are."""

import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio.waveform import load
from speech_emotion_jax.audio.windows import RecordingReader, Window, is_silent, read_windows
from speech_emotion_jax.errors import InvalidInput, SpeechEmotionError, UnreadableInput

from .support.examples import examples

RATE = 16_000


def sound(samples: int) -> np.ndarray:
    """Noise, so that a sample in a wrong place shows."""
    return np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)


def clip(waveform: np.ndarray) -> dict[str, Any]:
    return {"array": waveform, "sampling_rate": RATE}


def until_error(windows: Iterator[Window]) -> tuple[list[Window], SpeechEmotionError | None]:
    """The windows before the error, and the error."""
    found: list[Window] = []
    try:
        for window in windows:
            found.append(window)
    except SpeechEmotionError as error:
        return found, error
    return found, None


def assert_tiles(windows: Sequence[Window], waveform: np.ndarray, length: int, left: int, right: int) -> None:
    """The windows are those of the whole array, and without their overlaps they are the array."""
    step = length - left - right
    for index, window in enumerate(windows):
        last = index == len(windows) - 1
        assert window.start == index * step
        assert (window.left, window.right) == (left if index else 0, 0 if last else right)
        np.testing.assert_array_equal(window.waveform, waveform[window.start :][:length])
        assert last or len(window.waveform) == length
    for one, other in pairwise(windows):
        assert other.start + other.left == one.start + length - one.right
    cores = [window.waveform[window.left : len(window.waveform) - window.right] for window in windows]
    np.testing.assert_array_equal(np.concatenate(cores), waveform)


@given(data=st.data())
@settings(max_examples=examples(60))
def test_windows_are_the_recording(data: st.DataObject):
    length = data.draw(st.integers(1, 20_000))
    left = data.draw(st.integers(0, length - 1))
    right = data.draw(st.integers(0, length - left - 1))
    step = length - left - right
    samples = data.draw(st.integers(1, min(70_000, length + 100 * step)))
    waveform = sound(samples)
    windows = list(read_windows(clip(waveform), length, left, right))
    assert_tiles(windows, waveform, length, left, right)
    assert len(windows) == 1 + max(0, -(-(samples - length) // step))


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_recording_around_the_end_of_a_window(more: int):
    windows = list(read_windows(clip(sound(9_000 + more)), 3_000, 500, 500))
    # Windows begin every 2,000 samples: the fourth is the first to reach the end of 9,000.
    assert len(windows) == (5 if more > 0 else 4)
    assert windows[-1].right == 0


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_windows_of_a_file_are_those_of_its_samples(tmp_path: Path, rate: int):
    path = tmp_path / "speech.flac"
    soundfile.write(path, np.stack([sound(4 * rate), sound(4 * rate + 1)[1:]], 1), rate)
    assert_tiles(list(read_windows(path, RATE, 2_000, 3_000)), load(path), RATE, 2_000, 3_000)
    assert_tiles(list(read_windows(path.read_bytes(), RATE, 0, 0)), load(path), RATE, 0, 0)


@given(st.integers(1, 50_000), st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 20_000)), max_size=8))
@settings(max_examples=examples(40))
def test_a_reader_gives_any_stretch_ahead(samples: int, reads: list[tuple[int, int]]):
    waveform = sound(samples)
    reader, start = RecordingReader(clip(waveform)), 0
    for further, length in reads:
        start += further
        np.testing.assert_array_equal(reader.read(start, length), waveform[start : start + length])
        assert reader.ends_by(start + length) == (start + length >= samples)


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_twenty_minutes(tmp_path: Path):
    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.wav"
        beats = np.resize(np.array([0, 90, -90, 0], np.int16) * 256, seconds * 1_000)
        soundfile.write(path, beats, 1_000, subtype="PCM_U8")
        tracemalloc.start()
        try:
            count = sum(1 for _ in read_windows(path, 30 * RATE, 5 * RATE, 5 * RATE))
            assert count == (seconds - 10) // 20
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(7_210) < 1.05 * peak(1_210)  # 60 MB, most of it for the slow rate; all samples are 460 MB


# What can't be heard


@pytest.mark.parametrize("level", [0.0, 0.25, -1.0])
def test_digital_silence_is_no_error(level: float):
    windows = list(read_windows(clip(np.full(2_000, level, np.float32)), 1_000, 100, 100))
    assert len(windows) == 3
    assert all(window.silent for window in windows)


@pytest.mark.parametrize("samples", [1, 2, 559])
def test_very_short_recordings_are_one_window(samples: int):
    [window] = read_windows(clip(sound(samples)), 1_000, 100, 100)
    np.testing.assert_array_equal(window.waveform, sound(samples))
    assert window.silent == (samples == 1)


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (0.9e-4, True), (1.1e-4, False), (0.5, False)])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_silence_is_what_lies_below_minus_80_decibels(level: float, silent: bool, offset: float):
    beats = np.resize(np.array([level, -level], np.float32), 10_000) + np.float32(offset)
    assert is_silent(beats) == silent


def test_one_click_is_heard():
    assert not is_silent(np.where(np.arange(10_000) == 5_000, 0.01, 0).astype(np.float32))


# Errors


def test_what_comes_before_an_error_is_given():
    waveform = sound(1_000_000)
    waveform[900_000] = np.nan
    windows, error = until_error(read_windows(clip(waveform), 100_000, 0, 0))
    assert isinstance(error, InvalidInput)
    assert "NaN" in str(error)
    assert windows
    for window in windows:
        np.testing.assert_array_equal(window.waveform, waveform[window.start :][:100_000])


def test_errors_are_those_of_reading(tmp_path: Path):
    with pytest.raises(UnreadableInput, match=r"missing\.wav does not exist"):
        next(read_windows(tmp_path / "missing.wav", 1_000, 0, 0))
    with pytest.raises(InvalidInput, match="no samples"):
        next(read_windows(clip(sound(0)), 1_000, 0, 0))
    with pytest.raises(UnreadableInput, match="empty"):
        RecordingReader(b"").read(0, 100)


def test_a_file_that_is_damaged_late_is_read_up_to_there(tmp_path: Path):
    path = tmp_path / "damaged.flac"
    soundfile.write(path, sound(60 * RATE), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    windows, error = until_error(read_windows(path, 10 * RATE, 0, 0))
    assert isinstance(error, UnreadableInput)
    assert "truncated or damaged" in str(error)
    assert 2 <= len(windows) <= 4
    assert all(len(window.waveform) == 10 * RATE for window in windows)


@pytest.mark.parametrize("overlaps", [(500, 500), (1_000, 0), (600, 700)])
def test_windows_that_would_not_advance_are_a_bug(overlaps: tuple[int, int]):
    with pytest.raises(ValueError, match="can't overlap"):
        next(read_windows(clip(sound(5_000)), 1_000, *overlaps))
