"""Batches that were read, scored on all devices of a host at once.

Each device takes a batch of its own: what it computes for a clip depends on the batch alone, and so neither on how many
devices there are nor on which batches they happen to get together.
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

LONGEST_SHARED = 768  # frames, up to which buckets are narrow and neighbours share one

Transcribe = Callable[[Sequence[ClipInput]], None]  # sets text and tokens of readings, or their errors


@dataclass
class ClipResult:
    """What is known of a row in the end. Scores and vectors are None where it has an `error`."""

    number: int  # of the row
    text: str | None
    duration: float | None  # seconds
    truncated: bool
    error: str | None
    scores: Float[np.ndarray, " labels"] | None = None
    audio: Float[np.ndarray, " audio_width"] | None = None
    spoken: Float[np.ndarray, " text_width"] | None = None


@dataclass
class ScoredBatch:
    """A batch that was scored."""

    number: int
    results: list[ClipResult]


class _Shape(NamedTuple):
    """What a batch on one device is padded to; None where the mode has no use for it."""

    rows: int
    frames: int | None
    tokens: int | None
    truncated: bool  # clips of over 160 s are normalised by statistics that they bring


class _Load(NamedTuple):
    """Rows of one shape for one device, and where their results belong. A batch without a good row has one of none."""

    shape: _Shape
    readings: list[ClipInput]
    results: list[ClipResult]
    batch: ScoredBatch
    last: bool  # of its batch


def score_batches(
    batches: Iterable[ClipBatch], scorer: Scorer, batch_size: int, transcribe: Transcribe
) -> Iterator[ScoredBatch]:
    """Score batches, all devices of the scorer's mesh at a time.

    The devices work on one group of batches while the one before it is fetched and the next one is put together.
    """
    running: _Running | None = None
    for group in _groups(batches, scorer, batch_size, transcribe):
        following = _Running(group, scorer)
        if running is not None:
            yield from running.fetch()
        running = following
    if running is not None:
        yield from running.fetch()


def _groups(
    batches: Iterable[ClipBatch], scorer: Scorer, batch_size: int, transcribe: Transcribe
) -> Iterator[list[_Load]]:
    """Neighbours of one shape, at most one a device."""
    group: list[_Load] = []
    for batch in batches:
        transcribe([each for each in batch.readings if each.error is None and _lacks_text(each, scorer)])
        for load in _loads(batch, scorer, batch_size):
            if group and (group[0].shape != load.shape or len(group) == scorer.mesh.size):
                yield group
                group = []
            group.append(load)
    if group:
        yield group


def _lacks_text(reading: ClipInput, scorer: Scorer) -> bool:
    return scorer.config.text is not None and reading.tokens is None


def _loads(batch: ClipBatch, scorer: Scorer, batch_size: int) -> list[_Load]:
    scored = ScoredBatch(batch.number, [_result(each) for each in batch.readings])
    pairs = [pair for pair in zip(batch.readings, scored.results, strict=True) if pair[0].error is None]
    loads: list[_Load] = []
    for key in sorted({_apart(reading) for reading, _ in pairs}):
        readings, results = map(list, zip(*(pair for pair in pairs if _apart(pair[0]) == key), strict=True))
        loads.append(_Load(_shape(readings, scorer, batch_size), readings, results, scored, last=False))
    if not loads:
        loads = [_Load(_Shape(0, None, None, False), [], [], scored, last=False)]
    return [*loads[:-1], loads[-1]._replace(last=True)]


def _apart(reading: ClipInput) -> tuple[bool, int]:
    """Rows of a batch that differ in this are not computed together: a long clip would make all others as long."""
    if reading.clip is None:
        return False, 0
    frames = bucket(feature_frames(len(reading.clip.waveform)), FRAME_BUCKETS)
    return reading.clip.truncated, frames if frames > LONGEST_SHARED else 0


def _result(reading: ClipInput) -> ClipResult:
    truncated = any(part is not None and part.truncated for part in (reading.clip, reading.tokens))
    duration = None if reading.clip is None else reading.clip.samples / SAMPLE_RATE
    return ClipResult(reading.row.number, reading.text, duration, truncated, reading.error)


def _shape(readings: Sequence[ClipInput], scorer: Scorer, batch_size: int) -> _Shape:
    frames = [feature_frames(len(each.clip.waveform)) for each in readings if each.clip is not None]
    tokens = [len(each.tokens.ids) for each in readings if each.tokens is not None]
    return _Shape(
        padded_size(len(readings), batch_size),
        bucket(max(frames), FRAME_BUCKETS) if frames else None,
        scorer.token_bucket(max(tokens)) if tokens else None,
        _apart(readings[0])[0],
    )


class _Running:
    """A group of loads of one shape that the devices are working on."""

    def __init__(self, loads: list[_Load], scorer: Scorer):
        self.loads = loads
        shape = loads[0].shape
        audio = spoken = None
        rows = [
            row for load in repeat_first(loads, scorer.mesh.size) for row in repeat_first(load.readings, shape.rows)
        ]
        if shape.frames is not None:
            audio = scorer.audio_vectors([row.clip for row in rows if row.clip is not None], shape.frames)
        if shape.tokens is not None:
            spoken = scorer.text_vectors([row.tokens for row in rows if row.tokens is not None], shape.tokens)
        scores = scorer.probabilities(audio, spoken) if rows else None
        self._found = scores, audio, spoken

    def fetch(self) -> Iterator[ScoredBatch]:
        """Wait for the devices, put what they found into the results, and give the batches that are done by that."""
        scores, audio, spoken = (None if each is None else np.asarray(each) for each in self._found)
        for place, load in enumerate(self.loads):
            for row, result in enumerate(load.results, start=place * load.shape.rows):
                result.scores = None if scores is None else scores[row]
                result.audio = None if audio is None else audio[row]
                result.spoken = None if spoken is None else spoken[row]
            if load.last:
                yield load.batch
