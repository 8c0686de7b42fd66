"""Read the parts of a recording in one pass, each as a `Cut` of its own would be read.

A format that cannot be sought, such as MP3, is decoded from its start for every `Cut`. A timeline has hundreds of
parts, so the recording is decoded once here, and the frames of the parts in progress are kept.
"""

from __future__ import annotations

import math

import numpy as np

from ..audio import (
    MAX_SECONDS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    AudioSource,
    Cut,
    RecordingReader,
    Window,
    as_cut,
    decode_audio,
    describe,
    load,
)
from ..errors import InvalidInput
from .units import SILENCE, TOO_SHORT, Unit, Unscored

TOLERANCE = 0.1  # seconds by which a part may end after its recording, as for a `Cut`


class PartReader:
    """Reads parts of a recording. No part may start before the previous one.

    Attributes:
        name: Name of the recording, without its channel.
    """

    def __init__(self, source: AudioSource):
        """Prepare to read a recording, or one channel of it. It is opened by the first call.

        Raises:
            InvalidInput: The source is a part of a recording.
        """
        self._cut = as_cut(source)
        if self._cut.start != 0 or self._cut.end is not None:
            raise InvalidInput(f"{describe(source)} is a cut; pass the whole recording, and the cut as a turn")
        recording = self._cut.source
        self.name = recording if isinstance(recording, str) else describe(recording)
        self._pieces = decode_audio(self._cut, describe(self._cut))
        self._rate = 0  # of the recording, in hertz; 0 before the first piece
        self._kept = np.empty((0, 1), np.float32)
        self._first = 0  # position of the first kept frame
        self._ended = False

    @property
    def seconds(self) -> float:
        """The duration that was decoded so far."""
        return self._decoded / self._rate

    @property
    def _decoded(self) -> int:
        return self._first + len(self._kept)

    def ends_by(self, seconds: float) -> bool:
        """Return whether the recording ends at or before a time."""
        self._decode(seconds)
        return self._ended and self._decoded <= seconds * self._rate

    def unit(self, start: float, end: float, speaker: str | None = None, text: str | None = None) -> Unit:
        """Read a part.

        Args:
            start: Start in seconds, at least 0.
            end: End in seconds, after the start. It may lie 0.1 s after the end of the recording, as times are rounded.
            speaker: Name of the speaker.
            text: The words said.

        Returns:
            The unit with its samples. If it is too short or silent, it is marked and has none. A part of more than
            160 s stays a `Cut`, since only its beginning is scored.

        Raises:
            InvalidInput: The part does not lie in the recording, or its samples can't be used.
            UnreadableInput: The recording is missing or broken.
        """
        cut = self._cut._replace(start=start, end=end)
        if end - start > MAX_SECONDS:
            beginning = RecordingReader(cut).read(0, round(MAX_SECONDS * SAMPLE_RATE))
            unscored = _unscored(len(beginning), beginning[:, None])
            return Unit(self.name, start, end, None if unscored else cut, unscored, speaker, text, cut.channel)
        self._forget_before(start)
        self._decode(end)
        first, last = cut.frames(self._rate)
        if self._ended and (first >= self._decoded or end > self._decoded / self._rate + TOLERANCE):
            raise InvalidInput(
                f"{describe(self._cut)} is {self.seconds:.3f} s long, and a turn goes from {start:g} to {end:g} s; "
                "correct its times, or give the turns of this recording"
            )
        frames = self._kept[first - self._first : max(0, last - self._first)]
        unscored = _unscored(math.ceil(len(frames) * SAMPLE_RATE / self._rate), frames)
        audio = None if unscored else self._waveform(frames, cut)
        return Unit(self.name, start, end, audio, unscored, speaker, text, cut.channel)

    def _waveform(self, frames: np.ndarray, cut: Cut) -> AudioSource:
        """Resample frames to 16 kHz now, which takes less memory than to keep them."""
        try:
            waveform = load({"array": frames.T, "sampling_rate": self._rate})
        except InvalidInput as error:
            raise InvalidInput(f"{describe(cut)}: {error}") from error
        return {"array": waveform, "sampling_rate": SAMPLE_RATE}

    def _decode(self, seconds: float) -> None:
        """Decode until a time is passed or the recording ends."""
        pieces = [self._kept] if len(self._kept) else []
        decoded = self._decoded
        while not self._ended and (not self._rate or decoded <= seconds * self._rate):
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            else:
                self._rate = piece[0]
                pieces.append(piece[1])
                decoded += len(piece[1])
        if not self._rate:
            raise InvalidInput(f"{describe(self._cut)} holds no samples; record or export it again")
        self._kept = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._kept])

    def _forget_before(self, seconds: float) -> None:
        """Decode until a time, and forget what lies before it."""
        while True:
            position = int(seconds * self._rate)
            skipped = min(max(0, position - self._first), len(self._kept))
            self._kept, self._first = self._kept[skipped:], self._first + skipped
            if self._ended or (self._rate and position < self._decoded):
                return
            self._decode(self._decoded / self._rate if self._rate else 0.0)


def count_channels(source: AudioSource) -> int:
    """Return the number of channels of a recording, or 0 if it holds no samples.

    Raises:
        InvalidInput: A channel is asked for that does not exist.
        UnreadableInput: The recording is missing or broken.
    """
    first = next(decode_audio(source, describe(source)), None)
    return 0 if first is None else first[1].shape[1]


def _unscored(samples: int, frames: np.ndarray) -> Unscored | None:
    """Return why a part of `samples` samples at 16 kHz can't be scored, or None."""
    if samples < MIN_SAMPLES:
        return TOO_SHORT
    with np.errstate(all="ignore"):  # Infinite samples are refused later.
        return SILENCE if Window(frames.mean(axis=1), 0, 0, 0).silent else None
