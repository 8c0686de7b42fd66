"""Read recordings window by window, in memory that does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .waveform import SAMPLE_RATE, AudioSource, blocks

SILENCE_PEAK = 1e-4  # -80 dB of full scale, the noise of a sound card with nothing plugged in


class Window(NamedTuple):
    """A part of a recording.

    Attributes:
        waveform: Mono samples at 16 kHz, float32, full scale 1.
        start: Position of the first sample in the recording, in samples at 16 kHz.
        left: Overlap with the previous window, in samples.
        right: Overlap with the next window, in samples.
    """

    waveform: Float[np.ndarray, " samples"]
    start: int
    left: int
    right: int

    @property
    def silent(self) -> bool:
        """Whether the window holds no audible sound, see `is_silent`."""
        return is_silent(self.waveform)


def is_silent(waveform: Float[np.ndarray, " samples"]) -> bool:
    """Return whether all samples lie within SILENCE_PEAK of their mean."""
    return bool(np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK)


def read_windows(source: AudioSource, length: int, left: int, right: int) -> Iterator[Window]:
    """Read a recording as overlapping windows.

    Windows start every `length - left - right` samples. The first window has no left overlap, and the last one has no
    right overlap.

    Args:
        source: A recording, as for `waveform.blocks`.
        length: Samples per window at 16 kHz. The last window may be shorter.
        left: Samples at the start of a window that belong to its left context.
        right: Samples at the end of a window that belong to its right context.

    Yields:
        The windows in order.

    Raises:
        InvalidInput: As `waveform.blocks`, except that silence and short recordings are accepted.
        UnreadableInput: As `waveform.blocks`.
        ValueError: The overlaps leave no sample for a window.
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
    """Reads parts of a recording. No part may start before the previous one."""

    def __init__(self, source: AudioSource):
        """Prepare to read `source`, a recording as for `waveform.blocks`. It is opened by the first call."""
        self._blocks = blocks(source, SAMPLE_RATE, silence=True)
        self._buffer = np.empty(0, np.float32)
        self._start = 0  # position of the buffer's first sample in the recording
        self._ended = False

    def read(self, start: int, length: int) -> Float[np.ndarray, " samples"]:
        """Read samples from a position on.

        Args:
            start: Position of the first sample, in samples at 16 kHz. It must not decrease from call to call.
            length: Number of samples.

        Returns:
            The mono samples, float32. They are fewer than `length` at the end of the recording and none after it.

        Raises:
            InvalidInput: As `waveform.blocks`, except that silence and short recordings are accepted.
            UnreadableInput: As `waveform.blocks`.
        """
        self._fill(start + length)
        offset = min(start - self._start, len(self._buffer))
        self._buffer, self._start = self._buffer[offset:], self._start + offset
        return self._buffer[max(0, start - self._start) :][:length]

    def ends_by(self, sample: int) -> bool:
        """Return whether the recording has no sample at the position `sample` or after it."""
        self._fill(sample + 1)
        return self._start + len(self._buffer) <= sample

    def _fill(self, end: int) -> None:
        """Read on until the buffer reaches the position `end` or the recording ends."""
        pieces = [self._buffer]
        reached = self._start + len(self._buffer)
        while not self._ended and reached < end:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
            else:
                pieces.append(block)
                reached += len(block)
        self._buffer = np.concatenate(pieces)
