"""Pack the recordings of a manifest into ArrayRecord shards.

    audio-00000-of-00004.array_record ...    the bytes of the files, unchanged, each file once
    manifest.parquet                         the manifest's columns, and shard, record and seconds of each row

The same recordings give the same bytes. The folder is written under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from ..audio import decode_audio, describe, stated_seconds
from ..errors import InvalidInput, SpeechEmotionError, UnreadableInput
from ..runtime.addresses import disk_path
from ..runtime.atomic import atomic_folder
from ..runtime.compat import array_record_writer
from ..runtime.progress import progress
from .manifest import TIME_UNITS, Manifest, locate
from .manifest_files import read_manifest
from .recordings import fetch_recordings

MANIFEST = "manifest.parquet"
SHARD, RECORD, LENGTH = ADDED = ("shard", "record", "seconds")
SHARD_BYTES = 256 << 20

_NAMED = 100  # missing files that a message names at most


@dataclass(frozen=True)
class PackSummary:
    """What was packed.

    Attributes:
        rows: Rows of the manifest.
        recordings: Files, each counted once.
        shards: Shards.
        size: Bytes of the files.
        undecoded: Recordings of unknown duration, because they can't be decoded.
    """

    rows: int
    recordings: int
    shards: int
    size: int
    undecoded: int

    def __str__(self) -> str:
        """Return one line for the command line."""
        undecoded = f"; {self.undecoded} can't be decoded" if self.undecoded else ""
        return (
            f"{self.recordings} recordings of {self.rows} rows, {self.size / 1e6:.1f} MB in {self.shards} "
            f"shard{'s' * (self.shards != 1)}{undecoded}"
        )


def pack(
    manifest_path: str,
    audio_root: str | None,
    output_folder: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    shard_bytes: int = SHARD_BYTES,
) -> PackSummary:
    """Pack the recordings of a manifest, in the order of their first row.

    In the new manifest, `shard` is relative to its folder. `seconds` is the duration of the recording, or of the row's
    cut of it, and null if it can't be decoded. All three new columns are null for a row without a file.

    Args:
        manifest_path: The manifest.
        audio_root: Folder or address of the recordings. None takes paths from the working folder.
        output_folder: Folder to make.
        columns: As for `read_manifest`.
        time_unit: As for `read_manifest`.
        shard_bytes: Bytes of recordings per shard at most. A larger recording has a shard of its own.

    Returns:
        What was packed.

    Raises:
        UnreadableInput: Files are missing, which is checked before anything is written, or cannot be read or written.
        InvalidInput: The destination exists or is an address, or the manifest has one of the new columns already.
    """
    output_folder = disk_path(output_folder)
    manifest = read_manifest(manifest_path, columns=columns, time_unit=time_unit)
    table = manifest.table
    if "filename" not in manifest.columns:
        raise InvalidInput(f"{manifest_path} has no column of recordings; say which column is filename")
    if taken := [name for name in ADDED if name in table.column_names]:
        raise InvalidInput(f"{manifest_path} has a column {taken[0]!r} already, which packing adds; rename it")
    audio_root = None if audio_root is None else fetch_recordings(manifest, audio_root)
    encoded = pc.call_function("dictionary_encode", [_blank_is_null(manifest.column("filename"))])
    paths, codes = encoded.dictionary, encoded.indices
    sizes = _sizes(paths, audio_root)
    shards, records = _places(sizes, shard_bytes)
    names = _shard_names(int(shards[-1]) + 1 if len(shards) else 0)
    seconds = np.full(len(sizes), np.nan)

    with (
        atomic_folder(Path(output_folder)) as folder,
        progress(f"Packing {len(sizes)} recordings", int(sizes.sum())) as advance,
    ):
        for shard, name in enumerate(names):
            first, last = np.searchsorted(shards, [shard, shard + 1])
            with _writer(folder / name) as writer:
                for index in range(first, last):
                    path = Path(locate(paths[index].as_py(), audio_root))
                    writer.write(_content(path))
                    seconds[index] = _seconds(path)
                    advance(float(sizes[index]))
        added = (
            pa.array(names, pa.string()).take(pa.array(shards).take(codes)),
            pa.array(records).take(codes),
            _row_seconds(pa.array(seconds).take(codes).to_numpy(zero_copy_only=False), manifest),
        )
        for name, values in zip(ADDED, added, strict=True):
            table = table.append_column(name, values)
        pq.write_table(table, folder / MANIFEST)
    return PackSummary(len(table), len(sizes), len(names), int(sizes.sum()), int(np.isnan(seconds).sum()))


def _blank_is_null(column: pa.ChunkedArray) -> pa.Array:
    """Replace empty texts by null."""
    values = column.cast(pa.string()).combine_chunks()
    return pc.call_function(
        "if_else", [pc.call_function("equal", [values, pa.scalar("")]), pa.scalar(None, pa.string()), values]
    )


def _sizes(paths: pa.StringArray, audio_root: str | None) -> Int[np.ndarray, " recordings"]:
    """Return the size of each file in bytes, and raise UnreadableInput if any are missing."""
    sizes = np.zeros(len(paths), np.int64)
    missing: list[str] = []
    for index, path in enumerate(paths):
        place = locate(path.as_py(), audio_root)
        if os.path.isfile(place):
            sizes[index] = os.path.getsize(place)
        else:
            missing.append(describe(place))
    if missing:
        more = f" and {len(missing) - _NAMED} more" if missing[_NAMED:] else ""
        raise UnreadableInput(
            f"{len(missing)} of {len(paths)} recordings are not there: {', '.join(missing[:_NAMED])}{more}; "
            "name the folder that they are relative to, or correct the manifest"
        )
    return sizes


def _places(
    sizes: Int[np.ndarray, " recordings"], shard_bytes: int
) -> tuple[Int[np.ndarray, " recordings"], Int[np.ndarray, " recordings"]]:
    """Return the shard of each recording, and its number in the shard."""
    shards, records = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    shard = record = filled = 0
    for index, size in enumerate(sizes):
        if record and filled + size > shard_bytes:
            shard, record, filled = shard + 1, 0, 0
        shards[index], records[index] = shard, record
        record, filled = record + 1, filled + size
    return shards, records


def _shard_names(count: int) -> list[str]:
    return [f"audio-{shard:05d}-of-{count:05d}.array_record" for shard in range(count)]


@contextmanager
def _writer(path: Path) -> Iterator[Any]:
    """Open a writer of one shard. Each record is a group of its own, for random access, and is not compressed."""
    try:
        writer = array_record_writer(str(path), "group_size:1,uncompressed")
        yield writer
        writer.close()
    except RuntimeError as error:  # ArrayRecord raises it also for a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UnreadableInput(f"{describe(path)} can't be read ({reason}); check its permissions") from error


def _seconds(path: Path) -> float:
    """Return the duration of a recording, from its header or by decoding it. NaN if it can't be decoded."""
    stated = stated_seconds(path)
    if stated is not None:
        return stated
    frames, rate = 0, 1
    try:
        for rate, piece in decode_audio(path, describe(path)):  # noqa: B007
            frames += len(piece)
    except SpeechEmotionError:
        return np.nan
    return frames / rate


def _row_seconds(seconds: Float[np.ndarray, " rows"], manifest: Manifest) -> pa.DoubleArray:
    """Return the duration of each row's recording or cut, or null if it is not positive or not known."""

    def bound(field: str, otherwise: float) -> np.ndarray:
        given = manifest.column(field).cast(pa.float64()).to_numpy()  # null is NaN
        return np.where(np.isnan(given), otherwise, given / TIME_UNITS[manifest.time_unit])

    start, end = bound("start", 0.0), bound("end", np.inf)
    length = np.minimum(end, seconds) - start
    return pa.array(length, mask=~((start >= 0) & (length > 0)))
