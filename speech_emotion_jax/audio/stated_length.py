"""Check that a sound file holds as many bytes of samples as its header states."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

from ..errors import UnreadableInput

# Writers that cannot seek back state the size 0, or one from here up to 4 GiB.
_UNKNOWN_SIZE = 0x7F00_0000


@contextlib.contextmanager
def temporary_copy(stream: io.BytesIO | io.FileIO) -> Iterator[io.FileIO]:
    """Copy a stream from its position on to an anonymous temporary file, and yield it unbuffered."""
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        with io.FileIO(copy.fileno(), "r+", closefd=False) as unbuffered:
            yield unbuffered


@contextlib.contextmanager
def check_stated_length(stream: io.FileIO, name: str) -> Iterator[io.FileIO]:
    """Refuse files that hold less than they state, which libsndfile would read silently.

    Such are WAV, W64, AIFF, CAF, AU and NIST SPHERE; others are passed on.
    The writer of a stream cannot seek back and leaves the size of the samples at 0. libsndfile would then read nothing.
    For such a WAV file this yields a copy that states an unknown size instead.

    Args:
        stream: An unbuffered file of any format.
        name: Name of the source in messages.

    Yields:
        The stream or its copy, at any position.

    Raises:
        UnreadableInput: The file holds less than it states.
    """
    form, riff_size = _fields(stream, 0, "<4sI")
    size_at, start, size = _sample_chunk(stream)
    end = stream.seek(0, os.SEEK_END)
    if start + size > end and (size < _UNKNOWN_SIZE or form in (b"RF64", b"caff", b"riff", b"NIST")):
        raise UnreadableInput(
            f"{name} is truncated: it states {size} bytes of samples and has {max(0, end - start)}; copy it again"
        )
    other_chunks_follow = start < 8 + riff_size <= end
    if form in (b"RIFF", b"RF64") and size == 0 < start < end and not other_chunks_follow:
        stream.seek(0)
        with temporary_copy(stream) as copy:
            for offset, unknown in ((0, b"RIFF\xff\xff\xff\xff"), (size_at, b"\xff\xff\xff\xff")):
                copy.seek(offset)
                copy.write(unknown)
            yield copy
    else:
        yield stream


def _sample_chunk(stream: io.FileIO) -> tuple[int, int, int]:
    """Find the chunk of samples in a WAV, W64, AIFF, CAF, AU or NIST SPHERE file.

    Returns:
        The offset of the size field, the offset of the samples, and their stated size in bytes. Zeros for other files.
    """
    (form,) = _fields(stream, 0, "<4s")
    if form == b".snd":
        return 8, *_fields(stream, 4, ">II")
    if form == b"riff":
        return _w64_samples(stream)
    if form == b"NIST":
        return _sphere_samples(stream)
    layout = {b"RIFF": "<4sI", b"RF64": "<4sI", b"RIFX": ">4sI", b"FORM": ">4sI", b"caff": ">4sq"}.get(form)
    end = stream.seek(0, os.SEEK_END)
    position, size_beyond_4_gib = 8 if form == b"caff" else 12, 0
    for _ in range(256):  # no real file has so many chunks before its samples
        if layout is None or not 0 < position < end:
            break
        tag, size = _fields(stream, position, layout)
        content = position + struct.calcsize(layout)
        if tag in (b"data", b"SSND"):
            wide = form == b"RF64" and size == 0xFFFF_FFFF
            return position + 4, content, size_beyond_4_gib if wide else size
        if tag == b"ds64":
            (size_beyond_4_gib,) = _fields(stream, content + 8, "<Q")
        position = content + size + (size % 2 if form != b"caff" else 0)
    return 0, 0, 0


def _w64_samples(stream: io.FileIO) -> tuple[int, int, int]:
    """Find the chunk of samples in a W64 file, whose sizes count the 24 bytes of the chunk's header."""
    end = stream.seek(0, os.SEEK_END)
    position = 40
    for _ in range(256):
        if not 0 < position < end:
            break
        tag, size = _fields(stream, position, "<4s12xQ")
        if tag == b"data":
            return position + 16, position + 24, max(0, size - 24)
        position += max(24, size + -size % 8)
    return 0, 0, 0


def _sphere_samples(stream: io.FileIO) -> tuple[int, int, int]:
    """Compute the size of the samples that the header of a NIST SPHERE file states as text."""
    stream.seek(0)
    header = stream.read(4096)
    start = re.match(rb"NIST_1A\s+(\d+)", header)
    fields = dict(re.findall(rb"(\w+) -i (\d+)", header.partition(b"end_head")[0]))
    if start is None or b"shorten" in header:
        return 0, 0, 0
    counts = (b"sample_count", b"channel_count", b"sample_n_bytes")
    return 0, int(start[1]), math.prod(int(fields.get(name, 0)) for name in counts)


def _fields(stream: io.FileIO, offset: int, layout: str) -> tuple[Any, ...]:
    """Unpack the fields at `offset`, with `layout` in the notation of `struct`. Bytes after the end read as zero."""
    stream.seek(offset)
    size = struct.calcsize(layout)
    return struct.unpack(layout, stream.read(size).ljust(size, b"\0"))
