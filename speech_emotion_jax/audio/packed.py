"""Recordings in ArrayRecord shards: a record is the content of one file, byte for byte.

One file of a corpus holds thousands of recordings, and any of them is read without those before it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

from ..errors import UnreadableInput

_OPEN_SHARDS = 64  # each holds a descriptor and its index, 8 bytes a record

_readers: OrderedDict[tuple[str, int, int], Any] = OrderedDict()  # by path, inode and time of change; least used first
_lock = Lock()


class PackedRecording(NamedTuple):
    """A recording in a shard."""

    shard: str  # path of an ArrayRecord file
    record: int  # its number there, from 0

    def read(self) -> bytes:
        """The bytes of the recording; any number of threads may read.

        Raises UnreadableInput for a shard that is missing or broken, and for a record that it does not have.
        """
        try:
            status = os.stat(self.shard)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self._unreadable(getattr(error, "strerror", None) or str(error)) from error
        try:
            reader = _reader(self.shard, status)
            records = reader.num_records() if reader.ok() else None
            # A reader that could not open tells why when it reads.
            if records is not None and not 0 <= self.record < records:
                raise UnreadableInput(
                    f"{self.shard} has no record {self.record}, it has {records}; pair the manifest with its own shards"
                )
            return reader.read([self.record])[0]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # ArrayRecord's own
            raise self._unreadable(str(error).splitlines()[0]) from error

    def _unreadable(self, reason: str) -> UnreadableInput:
        return UnreadableInput(f"record {self.record} of {self.shard} can't be read ({reason}); copy the shard again")


def _reader(shard: str, status: os.stat_result) -> Any:
    """An open reader, which threads may share; the one used longest ago is let go of."""
    from array_record.python.array_record_module import ArrayRecordReader

    key = (shard, status.st_ino, status.st_mtime_ns)
    with _lock:
        reader = _readers.get(key)
        if reader is None:
            # For random access, as ArrayRecord recommends: nothing is read ahead, by no threads of its own.
            reader = ArrayRecordReader(
                shard, "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=1 << 15
            )
            if not reader.ok():
                return reader
            _readers[key] = reader
        _readers.move_to_end(key)
        while len(_readers) > _OPEN_SHARDS:
            _readers.popitem(last=False)  # closed when the last thread that reads from it has done so
    return reader
