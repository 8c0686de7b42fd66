"""Which clips of a manifest share a batch: a function of manifest and settings, never of what is left to do.

The manifest is cut into windows of consecutive rows. In each, rows are sorted by the bucket of their length and sliced
into batches: neighbours are padded to nearly the same length, a corpus of any size is planned as it is read, and batch
k is found without planning those before it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock

from ..audio import MAX_SAMPLES, SAMPLE_RATE, AudioSource, feature_frames, stated_seconds
from ..corpus import Manifest, Row
from ..inference import FRAME_BUCKETS, bucket

WINDOW = 8192  # rows. Of a bucket there are then enough batches to keep eight devices busy
READERS = 16  # threads that read lengths from headers, which on network disks is all waiting


class BatchPlan:
    """The batches of a manifest, each a list of at most `batch_size` rows; every row is in exactly one."""

    def __init__(
        self, manifest: Manifest, batch_size: int, source: Callable[[Row], AudioSource | None], *, has_audio: bool
    ):
        """`source` is a row's recording, whose length counts where the model takes sound (`has_audio`)."""
        self.manifest = manifest
        self.batch_size = batch_size
        self.source = source
        self._has_audio = has_audio
        self._a_window = -(-WINDOW // batch_size)
        self._planning = Lock()
        self._sorted = lru_cache(maxsize=2)(self._sort)

    def __len__(self) -> int:
        full, rest = divmod(len(self.manifest), WINDOW)
        return full * self._a_window - (-rest // self.batch_size)

    def __getitem__(self, number: int) -> list[Row]:
        window, batch = divmod(range(len(self))[number], self._a_window)
        with self._planning:  # one thread plans, the others want the same
            rows = self._sorted(window)
        return rows[batch * self.batch_size : (batch + 1) * self.batch_size]

    def windows(self) -> int:
        return -(-len(self.manifest) // WINDOW)

    def in_window(self, window: int) -> range:
        """The numbers of a window's batches."""
        return range(window * self._a_window, min((window + 1) * self._a_window, len(self)))

    def _sort(self, window: int) -> list[Row]:
        rows = self.manifest.rows(range(window * WINDOW, min((window + 1) * WINDOW, len(self.manifest))))
        if self._has_audio:
            with ThreadPoolExecutor(READERS) as readers:
                frames = list(readers.map(self._frames, rows))
        else:
            frames = [0] * len(rows)
        # Rows to be transcribed come together, at the end; texts of like length share a batch within a bucket of sound.
        keys = [
            (row.text is None, each, len(row.text or ""), row.number) for row, each in zip(rows, frames, strict=True)
        ]
        return [row for _, row in sorted(zip(keys, rows, strict=True), key=lambda pair: pair[0])]

    def _frames(self, row: Row) -> int:
        """The bucket of a clip's stated length; 0 where none is stated. The clip itself may turn out to be longer."""
        source = self.source(row)
        seconds = row.seconds
        if seconds is None and source is not None:
            seconds = stated_seconds(source)
        if seconds is None:
            return 0
        samples = round(seconds * SAMPLE_RATE)
        if samples > MAX_SAMPLES:
            return FRAME_BUCKETS[-1] + 1  # normalised by its own statistics, it shares no batch with shorter ones
        return bucket(max(1, feature_frames(samples)), FRAME_BUCKETS)
