"""Batches of clips read ahead of the devices, by Grain's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grain

from ..audio import AudioSource, Clip, Cut, PackedRecording
from ..corpus import Row, locate
from ..errors import SpeechEmotionError
from ..inference import Scorer
from ..text import Tokens
from .batches import BatchPlan

# Threads, no processes, which have to start and send what they decode (scripts/benchmark_bulk.py has figures). One is
# enough for a local disk; the others wait for a network one.
READER_THREADS = 4


@dataclass
class ClipInput:
    """A row as it was read. `clip` and `tokens` are None where the mode has no use for them, or for the `error`."""

    row: Row
    source: AudioSource | None
    text: str | None
    clip: Clip | None = None
    tokens: Tokens | None = None
    error: str | None = None


@dataclass
class ClipBatch:
    """A batch that was read."""

    number: int
    readings: list[ClipInput]


def read_ahead(
    batches: BatchPlan,
    numbers: Sequence[int],
    scorer: Scorer,
    source: Callable[[Row], AudioSource | None],
    *,
    ahead: int,
) -> Iterator[ClipBatch]:
    """The batches of these numbers, in order, up to `ahead` of them read before they are asked for.

    A text that is missing is left to be transcribed. What can't be read has its error, and raises nothing.
    """

    def read(number: int) -> ClipBatch:
        return ClipBatch(number, [_read(row, source(row), scorer) for row in batches[number]])

    options = grain.ReadOptions(num_threads=min(READER_THREADS, ahead), prefetch_buffer_size=ahead)
    yield from grain.MapDataset.source(numbers).map(read).to_iter_dataset(options)


def _read(row: Row, source: AudioSource | None, scorer: Scorer) -> ClipInput:
    reading = ClipInput(row, source, row.text if scorer.config.text is not None else None)
    try:
        reading.clip = scorer.clip(source)
        if reading.text is not None:
            reading.tokens = scorer.tokens(reading.text)
    except SpeechEmotionError as error:
        reading.error = str(error)
    return reading


def recording_source(row: Row, root: str) -> AudioSource | None:
    """What a row names below the audio root: a file, a record of a shard, or a cut of either; None where nothing."""
    if row.shard is not None and row.record is not None:
        whole = PackedRecording(locate(row.shard, root), row.record)
    elif row.filename is not None:
        whole = locate(row.filename, root)
    else:
        return None
    if row.start is None and row.end is None:
        return whole
    return Cut(whole, row.start or 0.0, row.end)
