"""Recordings cut into windows of at most 30 s, read as they are needed: memory is bounded whatever their length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .waveform import SAMPLE_RATE, AudioSource, blocks

SILENCE_PEAK = 1e-4  # -80 dB of full scale: what a sound card gives with nothing plugged in


class Window(NamedTuple):
    """A stretch of a recording: mono float32 at 16 kHz. `start` and the overlaps with its neighbours are in samples."""

    waveform: Float[np.ndarray, " samples"]
    start: int
    left: int
    right: int

    @property
    def silent(self) -> bool:
        return is_silent(self.waveform)


def is_silent(waveform: Float[np.ndarray, " samples"]) -> bool:
    """Whether nothing can be heard: all samples lie within SILENCE_PEAK of their mean."""
    return bool(np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK)


def read_windows(source: AudioSource, length: int, left: int, right: int) -> Iterator[Window]:
    """Windows of `length` samples every `length - left - right`, so that neighbours overlap by `left + right`.

    The first has no left overlap and the last no right one. Sources and errors are those of `audio.blocks`, but silence
    is no error.
    """
    step = length - left - right
    if step < 1:
        raise ValueError(f"windows of {length} samples can't overlap by {left} + {right}")
    reader = RecordingReader(source)
    start = 0
    while True:
        waveform = reader.read(start, length)
        last = reader.ends_by(start + length)
        yield Window(waveform, start, left if start else 0, 0 if last else right)
        if last:
            return
        start += step


class RecordingReader:
    """A recording read forward: any stretch that begins no sooner than the one before."""

    def __init__(self, source: AudioSource):
        self._blocks = blocks(source, SAMPLE_RATE, silence=True)
        self._held = np.empty(0, np.float32)
        self._start = 0  # of what is held
        self._ended = False

    def read(self, start: int, length: int) -> Float[np.ndarray, " samples"]:
        """Up to `length` samples from `start` on; fewer at the end, none after it."""
        self._hold(start + length)
        offset = min(start - self._start, len(self._held))
        self._held, self._start = self._held[offset:], self._start + offset
        return self._held[max(0, start - self._start) :][:length]

    def ends_by(self, sample: int) -> bool:
        """Whether the recording has no sample at `sample` or after it."""
        self._hold(sample + 1)
        return self._start + len(self._held) <= sample

    def _hold(self, end: int) -> None:
        pieces = [self._held]
        held = self._start + len(self._held)
        while not self._ended and held < end:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
            else:
                pieces.append(block)
                held += len(block)
        self._held = np.concatenate(pieces)
