"""Score batches of clips on all devices of a host at once.

Each device scores a batch of its own. What it computes for a clip depends on that batch alone, and neither on the
number of devices nor on the other batches that are scored at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..audio import SAMPLE_RATE, feature_frames
from ..inference import FRAME_BUCKETS, Scorer, bucket, padded_size, repeat_first
from .reading import ClipBatch, ClipInput

MAX_SHARED_FRAMES = 768  # up to this length buckets are narrow, so clips of different buckets may share a load

Transcribe = Callable[[Sequence[ClipInput]], None]


@dataclass
class ClipResult:
    """The result of scoring a clip.

    Attributes:
        number: The number of the manifest's row.
        text: The text, given or transcribed; None if the model takes none.
        duration: The length of the recording in seconds; None without a recording.
        truncated: Whether the recording or the text was cut to what the model accepts.
        error: Why the clip could not be scored; None if it was.
        scores: The probability of each label; None if there is an error.
        audio: The pooled audio vector; None if there is an error or the mode takes no audio.
        spoken: The pooled text vector; None if there is an error or the mode takes no text.
    """

    number: int
    text: str | None
    duration: float | None
    truncated: bool
    error: str | None
    scores: Float[np.ndarray, " labels"] | None = None
    audio: Float[np.ndarray, " audio_width"] | None = None
    spoken: Float[np.ndarray, " text_width"] | None = None


@dataclass
class ScoredBatch:
    """A batch with the results of its clips."""

    number: int
    results: list[ClipResult]


class _Shape(NamedTuple):
    """The shape that clips are padded to on one device. A field is None if the mode has no such input."""

    rows: int
    frames: int | None
    tokens: int | None
    truncated: bool  # clips over 160 s bring the statistics they are normalised with


class _DeviceLoad(NamedTuple):
    """Clips of one shape for one device, with their results. A batch with no valid rows yields one empty load."""

    shape: _Shape
    clips: list[ClipInput]
    results: list[ClipResult]
    batch: ScoredBatch
    last: bool  # whether it is the last load of its batch


def score_batches(
    batches: Iterable[ClipBatch], scorer: Scorer, batch_size: int, transcribe: Transcribe
) -> Iterator[ScoredBatch]:
    """Score batches, on all devices of the scorer's mesh at a time.

    The devices work on one group of batches while the results of the group before are fetched and the next group is
    prepared.

    Args:
        batches: The batches, with the clips' audio and text read.
        scorer: The model on its devices.
        batch_size: The largest number of clips that one device takes.
        transcribe: The function that transcribes the clips without text. It sets their text and tokens, or their
            errors.

    Yields:
        The scored batches, in the order of `batches`.
    """
    running: _RunningGroup | None = None
    for group in _group_loads(batches, scorer, batch_size, transcribe):
        following = _RunningGroup(group, scorer)
        if running is not None:
            yield from running.fetch()
        running = following
    if running is not None:
        yield from running.fetch()


def _group_loads(
    batches: Iterable[ClipBatch], scorer: Scorer, batch_size: int, transcribe: Transcribe
) -> Iterator[list[_DeviceLoad]]:
    """Group consecutive loads of one shape, at most one per device."""
    group: list[_DeviceLoad] = []
    for batch in batches:
        transcribe([each for each in batch.clips if each.error is None and _lacks_text(each, scorer)])
        for load in _divide(batch, scorer, batch_size):
            if group and (group[0].shape != load.shape or len(group) == scorer.mesh.size):
                yield group
                group = []
            group.append(load)
    if group:
        yield group


def _lacks_text(clip_input: ClipInput, scorer: Scorer) -> bool:
    """Return whether the clip has to be transcribed first."""
    return scorer.config.text is not None and clip_input.tokens is None


def _divide(batch: ClipBatch, scorer: Scorer, batch_size: int) -> list[_DeviceLoad]:
    """Divide a batch into loads of one shape."""
    scored = ScoredBatch(batch.number, [_empty_result(each) for each in batch.clips])
    pairs = [pair for pair in zip(batch.clips, scored.results, strict=True) if pair[0].error is None]
    loads: list[_DeviceLoad] = []
    for key in sorted({_length_class(clip_input) for clip_input, _ in pairs}):
        clips, results = map(list, zip(*(pair for pair in pairs if _length_class(pair[0]) == key), strict=True))
        loads.append(_DeviceLoad(_shape(clips, scorer, batch_size), clips, results, scored, last=False))
    if not loads:
        loads = [_DeviceLoad(_Shape(0, None, None, False), [], [], scored, last=False)]
    return [*loads[:-1], loads[-1]._replace(last=True)]


def _length_class(clip_input: ClipInput) -> tuple[bool, int]:
    """Return a key; clips of a batch with different keys are not scored together.

    Otherwise one long clip would make all others be padded to its length.
    """
    if clip_input.clip is None:
        return False, 0
    frames = bucket(feature_frames(len(clip_input.clip.waveform)), FRAME_BUCKETS)
    return clip_input.clip.truncated, frames if frames > MAX_SHARED_FRAMES else 0


def _empty_result(clip_input: ClipInput) -> ClipResult:
    """Create the result of a clip, without scores yet."""
    truncated = any(part is not None and part.truncated for part in (clip_input.clip, clip_input.tokens))
    duration = None if clip_input.clip is None else clip_input.clip.samples / SAMPLE_RATE
    return ClipResult(clip_input.row.number, clip_input.text, duration, truncated, clip_input.error)


def _shape(clips: Sequence[ClipInput], scorer: Scorer, batch_size: int) -> _Shape:
    """Choose the shape for some clips."""
    frames = [feature_frames(len(each.clip.waveform)) for each in clips if each.clip is not None]
    tokens = [len(each.tokens.ids) for each in clips if each.tokens is not None]
    return _Shape(
        padded_size(len(clips), batch_size),
        bucket(max(frames), FRAME_BUCKETS) if frames else None,
        scorer.token_bucket(max(tokens)) if tokens else None,
        _length_class(clips[0])[0],
    )


class _RunningGroup:
    """A group of loads of one shape that the devices are working on."""

    def __init__(self, loads: list[_DeviceLoad], scorer: Scorer):
        """Start the computation of a group."""
        self.loads = loads
        shape = loads[0].shape
        audio = spoken = None
        rows = [row for load in repeat_first(loads, scorer.mesh.size) for row in repeat_first(load.clips, shape.rows)]
        if shape.frames is not None:
            audio = scorer.audio_vectors([row.clip for row in rows if row.clip is not None], shape.frames)
        if shape.tokens is not None:
            spoken = scorer.text_vectors([row.tokens for row in rows if row.tokens is not None], shape.tokens)
        scores = scorer.probabilities(audio, spoken) if rows else None
        self._outputs = scores, audio, spoken

    def fetch(self) -> Iterator[ScoredBatch]:
        """Wait for the devices, store the results, and yield the batches that are complete."""
        scores, audio, spoken = (None if each is None else np.asarray(each) for each in self._outputs)
        for place, load in enumerate(self.loads):
            for row, result in enumerate(load.results, start=place * load.shape.rows):
                result.scores = None if scores is None else scores[row]
                result.audio = None if audio is None else audio[row]
                result.spoken = None if spoken is None else spoken[row]
            if load.last:
                yield load.batch
