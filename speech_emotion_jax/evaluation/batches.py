"""Assign the clips of a manifest to batches.

The assignment depends only on the manifest and the settings, so a resumed run uses the same batches.

The manifest is cut into windows of consecutive rows. The rows of a window are sorted by length and sliced into batches,
so that the clips of a batch need little padding. A window is planned when one of its batches is first needed: a corpus
of any size is planned while it is read, and a batch is found without planning the windows before it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock

from ..audio import MAX_SAMPLES, SAMPLE_RATE, AudioSource, feature_frames, stated_seconds
from ..corpus import Manifest, Row
from ..inference import FRAME_BUCKETS, bucket

WINDOW = 8192  # rows; enough batches of every length bucket to keep eight devices busy
HEADER_THREADS = 16  # threads that read lengths from file headers; on network disks they mostly wait


class BatchPlan:
    """The batches of a manifest: a sequence of lists of at most `batch_size` rows. Every row is in exactly one batch.

    Attributes:
        manifest: The manifest that is scored.
        batch_size: Clips per batch.
        source: The function that returns the recording of a row, or None if the row has none.
    """

    def __init__(
        self, manifest: Manifest, batch_size: int, source: Callable[[Row], AudioSource | None], *, has_audio: bool
    ):
        """Create the plan. No recording is opened before the first batch is asked for.

        Args:
            manifest: The manifest that is scored.
            batch_size: Clips per batch.
            source: A function that returns the recording of a row, or None if the row has none.
            has_audio: Whether the model takes audio. If not, rows are sorted by the length of their texts alone.
        """
        self.manifest = manifest
        self.batch_size = batch_size
        self.source = source
        self._has_audio = has_audio
        self._batches_per_window = -(-WINDOW // batch_size)
        self._lock = Lock()
        self._sorted_rows = lru_cache(maxsize=2)(self._sort_window)

    def __len__(self) -> int:
        """Return the number of batches."""
        full, rest = divmod(len(self.manifest), WINDOW)
        return full * self._batches_per_window - (-rest // self.batch_size)

    def __getitem__(self, number: int) -> list[Row]:
        """Return the rows of a batch. Raises IndexError if there is no batch of that number."""
        window, batch = divmod(range(len(self))[number], self._batches_per_window)
        with self._lock:  # Reader threads ask for batches of the same window; only the first one plans it.
            rows = self._sorted_rows(window)
        return rows[batch * self.batch_size : (batch + 1) * self.batch_size]

    def window_count(self) -> int:
        """Return the number of windows."""
        return -(-len(self.manifest) // WINDOW)

    def batches_of_window(self, window: int) -> range:
        """Return the numbers of the batches of a window."""
        return range(window * self._batches_per_window, min((window + 1) * self._batches_per_window, len(self)))

    def _sort_window(self, window: int) -> list[Row]:
        rows = self.manifest.rows(range(window * WINDOW, min((window + 1) * WINDOW, len(self.manifest))))
        if self._has_audio:
            with ThreadPoolExecutor(HEADER_THREADS) as threads:
                frames = list(threads.map(self._frame_bucket, rows))
        else:
            frames = [0] * len(rows)
        # Rows that Whisper has to transcribe come last. Within a frame bucket, texts of similar length share a batch.
        keys = [
            (row.text is None, each, len(row.text or ""), row.number) for row, each in zip(rows, frames, strict=True)
        ]
        return [row for _, row in sorted(zip(keys, rows, strict=True), key=lambda pair: pair[0])]

    def _frame_bucket(self, row: Row) -> int:
        """Return the frame bucket of a clip's stated length, or 0 if no length is stated.

        The decoded clip may be longer than its header states.
        """
        source = self.source(row)
        seconds = row.seconds
        if seconds is None and source is not None:
            seconds = stated_seconds(source)
        if seconds is None:
            return 0
        samples = round(seconds * SAMPLE_RATE)
        if samples > MAX_SAMPLES:
            # A truncated clip is normalised with the statistics of the whole clip, so it can't share a batch with
            # others.
            return FRAME_BUCKETS[-1] + 1
        return bucket(max(1, feature_frames(samples)), FRAME_BUCKETS)
