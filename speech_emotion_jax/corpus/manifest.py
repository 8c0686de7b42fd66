"""A list of clips as an Arrow table, what each field of it means, and where their recordings lie.

A row is a clip. Which column says what is a matter of `FIELDS`, whose names are those of the columns unless they are
mapped; all other columns are carried along.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from ..errors import InvalidInput

FIELDS: Mapping[str, pa.DataType] = {
    "id": pa.string(),  # tells clips apart; else the filename (with start and end), else the row's number
    "filename": pa.string(),  # under the audio root
    "label": pa.string(),
    "transcription": pa.string(),
    "split": pa.string(),
    "start": pa.float64(),  # of a cut of the file, in the time unit; none: from the beginning
    "end": pa.float64(),  # none: to the end
    "shard": pa.string(),  # the recording is in this ArrayRecord file, under the audio root
    "record": pa.int64(),  # and is its record of this number, from 0
    "seconds": pa.float64(),  # how long the clip is; spares reading headers
}
TIME_UNITS = {"s": 1.0, "ms": 1000.0}  # a second's worth
CHUNK_ROWS = 65536  # rows of a chunk of the table, and rows that are Python objects at a time


class Row(NamedTuple):
    """A clip. `number` is its place in the manifest, from 0; start, end and seconds are in seconds.

    `text` and `label` (mapped) are None where there is none, as are all fields the manifest lacks.
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


@dataclass(frozen=True)
class Manifest:
    """The clips, as they stand in the file or, of a split, in the order of the file.

    Where there are more than `CHUNK_ROWS` rows, columns of texts that repeat themselves are dictionaries.

    `columns` is {field: its column in `table`}, of the fields there are; "id" is always there. Where the file has no
    column for it, it is the one of the filenames, or a column `id` that was put at the table's end: filename:start-end
    for cuts, else shard:record, else the row's number. `sha256` is of the file's bytes.
    """

    name: str
    table: pa.Table
    columns: Mapping[str, str]
    sha256: str
    label_map: Mapping[str, str]  # {from: to}, "" for no label
    time_unit: str
    file_rows: Int[np.ndarray, " rows"]  # the number of each row in the file, from 1
    unused_labels: tuple[str, ...]  # what label_map maps and no row of the file has, whatever its split
    has_generated_id: bool  # whether the last column, id, is not of the file

    def __len__(self) -> int:
        return len(self.table)

    def column(self, field: str) -> pa.ChunkedArray:
        """A field's column as it is in the file; nulls where there is none."""
        if field in self.columns:
            return self.table.column(self.columns[field])
        return pa.chunked_array([pa.nulls(len(self), FIELDS[field])])

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows of these numbers (from 0), in this order; a range is fastest."""
        numbers = list(indices)
        if isinstance(indices, range) and indices.step == 1:
            values = {field: self.column(field).slice(indices.start, len(indices)).to_pylist() for field in FIELDS}
        else:
            columns = {field: self.column(field) for field in FIELDS}
            values = {field: [column[each].as_py() for each in numbers] for field, column in columns.items()}
        unit, mapped = TIME_UNITS[self.time_unit], self._mapped
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
                mapped.get(label, label) or None,
                seconds,
            )
            for number, id, filename, label, text, _, start, end, shard, record, seconds in zip(
                numbers, *values.values(), strict=True
            )
        ]

    def labels(self) -> list[str | None]:
        """The label of each row, mapped; None where it has none."""
        mapped = self._mapped
        truth: list[str | None] = []
        for chunk in self.column("label").chunks:
            coded = chunk.dictionary_encode()
            names = [mapped.get(label, label) or None for label in coded.dictionary.to_pylist()]
            truth.extend(None if code is None else names[code] for code in coded.indices.to_pylist())
        return truth

    @property
    def _mapped(self) -> dict[str | None, str | None]:
        return {**self.label_map, None: None, "": None}


def locate(filename: str, audio_root: str | None) -> str:
    """The path of a recording that a manifest names.

    With an audio root it lies under it, even where it is absolute; without one it is taken as it is, from the working
    folder. Neither may have "..". Raises InvalidInput for what climbs out.
    """
    if not is_inside(filename, audio_root):
        raise InvalidInput(f"{filename} leaves the audio root; name recordings below it")
    return filename if audio_root is None else os.path.join(audio_root, filename)


def is_inside(filename: str, audio_root: str | None) -> bool:
    """Whether a recording lies below the audio root or, without one, anywhere that needs no ".."."""
    if "\0" in filename or (".." in filename and ".." in filename.replace(os.sep, "/").split("/")):
        return False
    if audio_root is None or not os.path.isabs(filename):
        return True
    return os.path.normpath(filename).startswith(os.path.join(os.path.abspath(audio_root), ""))
