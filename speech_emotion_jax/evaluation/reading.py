"""Read batches of clips ahead of the devices, in Grain's threads."""

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

# Threads rather than processes: processes take time to start and have to copy what they decode, as measured by
# scripts/benchmark_bulk.py. One thread is enough for a local disk; the others hide the latency of a network disk.
READER_THREADS = 4


@dataclass
class ClipInput:
    """A row of the manifest with its inputs.

    Attributes:
        row: The row.
        source: The recording; None if the row names none.
        text: The text; None if it has to be transcribed or the model takes none.
        clip: The decoded audio; None if the model takes none or there is an error.
        tokens: The tokens of the text; None if there is no text or there is an error.
        error: Why the row could not be read; None if it was.
    """

    row: Row
    source: AudioSource | None
    text: str | None
    clip: Clip | None = None
    tokens: Tokens | None = None
    error: str | None = None


@dataclass
class ClipBatch:
    """A batch of clips that were read."""

    number: int
    clips: list[ClipInput]


def read_ahead(
    batches: BatchPlan,
    numbers: Sequence[int],
    scorer: Scorer,
    source: Callable[[Row], AudioSource | None],
    *,
    ahead: int,
) -> Iterator[ClipBatch]:
    """Read batches ahead of their consumer.

    A missing text is left to be transcribed. A row that can't be read gets an error; nothing is raised.

    Args:
        batches: The plan of the batches.
        numbers: The numbers of the batches to read, in order.
        scorer: The scorer, which prepares audio and text for its model.
        source: The function that returns the recording of a row.
        ahead: The largest number of batches that are read before they are asked for.
    """

    def read(number: int) -> ClipBatch:
        """Read one batch."""
        return ClipBatch(number, [_read(row, source(row), scorer) for row in batches[number]])

    options = grain.ReadOptions(num_threads=min(READER_THREADS, ahead), prefetch_buffer_size=ahead)
    yield from grain.MapDataset.source(numbers).map(read).to_iter_dataset(options)


def _read(row: Row, source: AudioSource | None, scorer: Scorer) -> ClipInput:
    """Read the audio and the text of a row."""
    clip_input = ClipInput(row, source, row.text if scorer.config.text is not None else None)
    try:
        clip_input.clip = scorer.clip(source)
        if clip_input.text is not None:
            clip_input.tokens = scorer.tokens(clip_input.text)
    except SpeechEmotionError as error:
        clip_input.error = str(error)
    return clip_input


def recording_source(row: Row, root: str) -> AudioSource | None:
    """Return the recording that a row names.

    Args:
        row: A row of the manifest.
        root: The folder that file names are relative to.

    Returns:
        A file, a record of a shard, or a cut or channel of either; None if the row names no recording.
    """
    if row.shard is not None and row.record is not None:
        whole = PackedRecording(locate(row.shard, root), row.record)
    elif row.filename is not None:
        whole = locate(row.filename, root)
    else:
        return None
    if row.start is None and row.end is None and row.channel is None:
        return whole
    return Cut(whole, row.start or 0.0, row.end, row.channel)
