"""Read recordings from ArrayRecord shards.

A shard holds thousands of recordings. Each record is the content of one audio file, byte for byte, and can be read
without the records before it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

from ..errors import UnreadableInput
from ..runtime.compat import array_record_reader

_OPEN_SHARDS = 64  # an open shard costs a file descriptor and its index, 8 bytes per record

_readers: OrderedDict[tuple[str, int, int], Any] = OrderedDict()  # key: path, inode, mtime; least recently used first
_lock = Lock()


class PackedRecording(NamedTuple):
    """A recording in an ArrayRecord shard.

    Attributes:
        shard: Path of the ArrayRecord file.
        record: Number of the recording in the shard, from 0.
    """

    shard: str
    record: int

    def read(self) -> bytes:
        """Read the recording. Any number of threads may call this at the same time.

        Returns:
            The content of the audio file.

        Raises:
            UnreadableInput: The shard is missing or broken, or it has no such record.
        """
        try:
            status = os.stat(self.shard)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self._unreadable(getattr(error, "strerror", None) or str(error)) from error
        try:
            reader = _reader(self.shard, status)
            records = reader.num_records() if reader.ok() else None
            # A reader that failed to open reports the reason only when it reads.
            if records is not None and not 0 <= self.record < records:
                raise UnreadableInput(
                    f"{self.shard} has no record {self.record}, it has {records}; "
                    "use the manifest that was written with these shards"
                )
            return reader.read([self.record])[0]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # raised by ArrayRecord
            raise self._unreadable(str(error).splitlines()[0]) from error

    def _unreadable(self, reason: str) -> UnreadableInput:
        return UnreadableInput(f"record {self.record} of {self.shard} can't be read ({reason}); copy the shard again")


def _reader(shard: str, status: os.stat_result) -> Any:
    """Return an open ArrayRecordReader, which threads may share. Only the last _OPEN_SHARDS used stay open."""
    key = (shard, status.st_ino, status.st_mtime_ns)
    with _lock:
        reader = _readers.get(key)
        if reader is None:
            # ArrayRecord recommends these settings for random access: no read-ahead and no threads of its own.
            reader = array_record_reader(
                shard, "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=1 << 15
            )
            if not reader.ok():
                return reader
            _readers[key] = reader
        _readers.move_to_end(key)
        while len(_readers) > _OPEN_SHARDS:
            _readers.popitem(last=False)  # it closes when the last thread has finished reading
    return reader
