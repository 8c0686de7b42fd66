"""Walk through the frames of MPEG audio, to find out which decoder reads all of them.

libsndfile decodes as many frames as the index in the first one states, or as the first bitrate makes probable without
one. Its decoder mpg123 prints to the terminal where it finds other bytes than it expects.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .stated_length import temporary_copy

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version bits
_KBITS = {  # by layer bits; version 1, then 2 and 2.5
    (1, True): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # layer III
    (2, True): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),  # layer II
    (1, False): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, False): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_CHUNK = 1 << 20
_PATIENCE = 1 << 17  # bytes that are searched for a frame after something else


class _Frame(NamedTuple):
    size: int  # bytes
    kind: tuple[int, int, int]  # version, layer and rate, which all frames of a stream share
    bitrate: int


class MpegStream(NamedTuple):
    """Runs of frames in a file of MPEG audio, and what libsndfile would miss of them.

    Attributes:
        spans: Start and end of each run of frames. Tags and other bytes stand between and around them.
        fault: Why libsndfile would not read all frames; None if it does.
        skipped: Bytes between the runs that are no tags.
        stated_size: Position of the size that the index states, and that size. None if there is no such size.
    """

    spans: list[tuple[int, int]]
    fault: str | None
    skipped: int
    stated_size: tuple[int, int] | None


def walk_frames(stream: io.FileIO) -> MpegStream | None:
    """Walk through all frames of a file.

    Args:
        stream: An open file.

    Returns:
        What stands in it. None if it does not begin with tags and a frame of MPEG audio of layer II or III.
    """
    reader = _Reader(stream)
    start = position = _after_tags(reader, 0)
    first = _frame(reader.at(position, 4))
    if first is None or start + first.size > reader.end:
        return None
    frames_stated, index = _index(reader.at(position, first.size), position)
    spans: list[tuple[int, int]] = []
    frames, skipped, varies = 0, 0, False
    fault = None
    while True:
        begin = position
        while (frame := _frame(reader.at(position, 4))) is not None and frame.kind == first.kind:
            frames += 1
            varies |= frame.bitrate != first.bitrate
            position += frame.size
        spans.append((begin, min(position, reader.end)))
        if frame is not None and _follows(reader, position, frame):
            fault = "its frames change their rate or layer"
            break
        after = _after_tags(reader, position)
        following = _next_frame(reader, after, first.kind)
        if following is None:
            break
        skipped += following - after
        position = following
    if frames_stated is None and varies:
        fault = fault or "its bitrate varies and it has no index"
    elif frames_stated is not None and frames > frames_stated + 1:  # the frame of the index is not counted
        fault = fault or "its index ends before its frames"
    return MpegStream(spans, fault, skipped, index)


@contextmanager
def frames_only(stream: io.FileIO, mpeg: MpegStream) -> Iterator[io.FileIO]:
    """Yield the file, or a copy of its frames alone where tags, other bytes or a wrong index would make mpg123 print.

    The samples do not depend on what the copy leaves out.
    """
    size = sum(end - start for start, end in mpeg.spans)
    right = mpeg.fault or mpeg.stated_size is None or abs(mpeg.stated_size[1] - size) * 200 <= size
    if right and mpeg.spans == [(0, os.fstat(stream.fileno()).st_size)]:
        yield stream
        return
    with temporary_copy(io.BytesIO()) as copy:
        for start, end in mpeg.spans:
            stream.seek(start)
            for position in range(start, end, _CHUNK):
                copy.write(stream.read(min(_CHUNK, end - position)))
        if not right and mpeg.stated_size is not None:
            copy.seek(mpeg.stated_size[0] - mpeg.spans[0][0])
            copy.write(struct.pack(">I", size))
        yield copy


class _Reader:
    """Reads a file by position, a chunk at a time."""

    def __init__(self, stream: io.FileIO):
        self._stream, self._chunk, self._from = stream, b"", 0
        self.end = stream.seek(0, os.SEEK_END)

    def at(self, position: int, size: int) -> bytes:
        offset = position - self._from
        if not 0 <= offset <= len(self._chunk) - size:
            self._stream.seek(position)
            self._chunk, self._from, offset = self._stream.read(max(size, _CHUNK)), position, 0
        return self._chunk[offset : offset + size]


def _frame(header: bytes) -> _Frame | None:
    """Parse the header of a frame of layer II or III. None for other bytes and for the free bitrate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer not in (1, 2) or bitrate in (0, 15) or rate == 3:
        return None
    kbits = _KBITS[layer, version == 3][bitrate - 1]
    hertz = _RATES[version][rate]
    slots = 72 if layer == 1 and version != 3 else 144
    return _Frame(slots * kbits * 1000 // hertz + padding, (version, layer, rate), kbits)


def _follows(reader: _Reader, position: int, frame: _Frame) -> bool:
    """Return whether a frame is followed by one of its kind, so that it is no chance."""
    after = _frame(reader.at(position + frame.size, 4))
    return after is not None and after.kind == frame.kind


def _next_frame(reader: _Reader, position: int, kind: tuple[int, int, int]) -> int | None:
    """Return the position of the next frame of a stream, or None if none follows."""
    content = reader.at(position, _PATIENCE)
    offset = content.find(b"\xff")
    while offset >= 0:
        frame = _frame(content[offset : offset + 4])
        if frame is not None and frame.kind == kind and _follows(reader, position + offset, frame):
            return position + offset
        offset = content.find(b"\xff", offset + 1)
    return None


def _after_tags(reader: _Reader, position: int) -> int:
    """Return the position after the ID3 and APE tags that stand at a position."""
    while True:
        head = reader.at(position, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG":
            position += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, flags = struct.unpack("<I4xI", head[12:24])
            position += 32 + (size if flags & 0x2000_0000 else 0)
        else:
            return min(position, reader.end)


def _index(frame: bytes, position: int) -> tuple[int | None, tuple[int, int] | None]:
    """Return the number of frames that an index in the first frame states, and where it states their size."""
    version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    tag = frame[4 + side :]
    if tag[:4] in (b"Xing", b"Info") and len(tag) >= 16:
        flags, frames, size = struct.unpack(">3I", tag[4:16])
        if not flags & 1:
            return None, None
        return frames, (position + 4 + side + 12, size) if flags & 2 else None
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        size, frames = struct.unpack(">2I", frame[46:54])
        return frames, (position + 46, size)
    return None, None
