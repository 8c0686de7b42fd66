"""A list of clips as an Arrow table.

Each row is a clip. `FIELDS` are the columns that this package reads. A column may have another name if it is mapped to
its field. All other columns are kept unchanged.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from ..errors import InvalidInput
from ..runtime.paths import find_path

FIELDS: Mapping[str, pa.DataType] = {
    "id": pa.string(),  # unique name of the clip; see `Manifest` for its default
    "filename": pa.string(),  # path below the audio root
    "label": pa.string(),
    "transcription": pa.string(),
    "split": pa.string(),
    "start": pa.float64(),  # start of the clip in the file, in the time unit; null: the beginning
    "end": pa.float64(),  # end of the clip; null: the end of the file
    "shard": pa.string(),  # path of an ArrayRecord file below the audio root, instead of filename
    "record": pa.int64(),  # number of the recording in the shard, from 0
    "seconds": pa.float64(),  # duration of the clip; without it headers must be read
    "channel": pa.int64(),  # channel of the file, from 0; null: the mean of all
}
TIME_UNITS = {"s": 1.0, "ms": 1000.0}  # units per second
NOTHING = ("nan", "NaN", "NaT", "<NA>", "None")  # what Python and pandas write for a missing value, beside ""
CHUNK_ROWS = 65536  # rows of a chunk of the table, and rows that become Python objects at a time


class Row(NamedTuple):
    """A clip. Fields that the manifest lacks are None.

    Attributes:
        number: Place of the clip in the manifest, from 0.
        id: Unique name of the clip.
        filename: Path of the recording below the audio root.
        shard: Path of the ArrayRecord file below the audio root.
        record: Number of the recording in the shard.
        start: Start of the clip in the recording, in seconds.
        end: End of the clip in the recording, in seconds.
        text: The words that are said, or None if there are none.
        label: The label after mapping, or None if there is none.
        seconds: Duration of the clip in seconds.
        channel: Number of the channel in the recording, from 0, or None for the mean of all.
    """

    number: int
    id: str
    filename: str | None
    shard: str | None
    record: int | None
    start: float | None
    end: float | None
    text: str | None
    label: str | None
    seconds: float | None
    channel: int | None


@dataclass(frozen=True)
class Manifest:
    """A list of clips, in the order of its file.

    A file without a column for the field "id" gets one. If it has filenames but no cuts or channels, "id" is the column
    of the filenames. Otherwise a column `id` is added at the end of the table. It holds filename:start-end, else
    shard:record, else the number of the row, followed by #channel if there are channels.

    Attributes:
        name: Path of the file.
        table: The clips. In tables of more than `CHUNK_ROWS` rows, text columns with many repeated values are
            dictionary-encoded.
        columns: {field: column of `table`} for the fields that the manifest has. "id" is always there.
        sha256: Hash of the file's bytes.
        label_map: {label in the file: label to use}, "" for no label.
        time_unit: Unit of start and end in the table, a key of `TIME_UNITS`.
        file_rows: Number of each row in the file, from 1.
        unused_labels: Labels of `label_map` that no row of the file has, in any split.
        has_generated_id: Whether the last column is an added `id`.
    """

    name: str
    table: pa.Table
    columns: Mapping[str, str]
    sha256: str
    label_map: Mapping[str, str]
    time_unit: str
    file_rows: Int[np.ndarray, " rows"]
    unused_labels: tuple[str, ...]
    has_generated_id: bool

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.table)

    def column(self, field: str) -> pa.ChunkedArray:
        """Return the column of a field, unmapped. It is all null if the manifest lacks the field."""
        if field in self.columns:
            return self.table.column(self.columns[field])
        return pa.chunked_array([pa.nulls(len(self), FIELDS[field])])

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """Return clips by their numbers.

        Args:
            indices: Places in the manifest, from 0. A range is fastest.

        Returns:
            The clips in the order of `indices`, with mapped labels and times in seconds.
        """
        numbers = list(indices)
        if isinstance(indices, range) and indices.step == 1:
            values = {field: self.column(field).slice(indices.start, len(indices)).to_pylist() for field in FIELDS}
        else:
            columns = {field: self.column(field) for field in FIELDS}
            values = {field: [column[each].as_py() for each in numbers] for field, column in columns.items()}
        unit, label_map = TIME_UNITS[self.time_unit], self._label_map
        return [
            Row(
                number,
                id or "",
                filename,
                shard,
                record,
                None if start is None else start / unit,
                None if end is None else end / unit,
                text if text and text.strip() else None,
                label_map.get(label, label) or None,
                seconds,
                channel,
            )
            for number, id, filename, label, text, _, start, end, shard, record, seconds, channel in zip(
                numbers, *values.values(), strict=True
            )
        ]

    def labels(self) -> list[str | None]:
        """Return the label of each clip after mapping, or None for a clip without a label."""
        label_map = self._label_map
        labels: list[str | None] = []
        for chunk in self.column("label").chunks:
            encoded = chunk.dictionary_encode()
            names = [label_map.get(label, label) or None for label in encoded.dictionary.to_pylist()]
            labels.extend(None if code is None else names[code] for code in encoded.indices.to_pylist())
        return labels

    @property
    def _label_map(self) -> dict[str | None, str | None]:
        return {**self.label_map, None: None, "": None}


def nearest_column(wanted: str, names: Sequence[str]) -> str | None:
    """Return the column whose name differs least from a wanted one, but for letters' case and signs; None if none does.

    Args:
        wanted: A field, or the name of a column.
        names: The columns that there are.
    """
    bare = {re.sub(r"[\W_]", "", name).casefold(): name for name in reversed(names)}
    found = difflib.get_close_matches(re.sub(r"[\W_]", "", wanted).casefold(), list(bare), 1, 0.7)
    return bare[found[0]] if found else None


def locate(filename: str, audio_root: str | None) -> str:
    """Return the path of a recording that a manifest names.

    Args:
        filename: Path in the manifest. With an audio root, an absolute path must lie below it.
        audio_root: Folder of the recordings. None takes the path from the working folder.

    Returns:
        The path. If the folder has the name in another form of its letters, the name that is there.

    Raises:
        InvalidInput: The path has ".." in it or lies outside the audio root.
    """
    if not is_inside(filename, audio_root):
        raise InvalidInput(f"{filename} leaves the audio root; name recordings below it")
    return find_path(filename if audio_root is None else os.path.join(audio_root, filename))


def is_inside(filename: str, audio_root: str | None) -> bool:
    """Return whether a path has no ".." and, with an audio root, lies below it.

    Args:
        filename: Path in the manifest.
        audio_root: Folder of the recordings, or None.
    """
    if "\0" in filename or (".." in filename and ".." in filename.replace(os.sep, "/").split("/")):
        return False
    if audio_root is None or not os.path.isabs(filename):
        return True
    return os.path.normpath(filename).startswith(os.path.join(os.path.abspath(audio_root), ""))
