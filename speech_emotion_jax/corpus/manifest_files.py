"""Read and write manifests: CSV, TSV, JSON or Parquet, on a disk or a bucket.

The columns start, end, seconds, record and channel become numbers, and id, filename, label, transcription, split and
shard become text. Manifests are read in parts into Arrow columns, so that no list of Python objects is ever as long as
the table.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import Folder
from .cells import cast_fields, holds_numbers
from .manifest import FIELDS, TIME_UNITS, Manifest, nearest_column
from .manifest_formats import READERS, ChunkedTable, clean_name, open_bytes, suffix


def read_manifest(
    path: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    label_map: Mapping[str, str] | None = None,
    time_unit: str = "s",
) -> Manifest:
    """Read a manifest.

    Args:
        path: A file that ends in .csv, .tsv, .jsonl, .json or .parquet, on a disk or a bucket.
        columns: {field: column} for columns that are not named like their field in `FIELDS`. Blanks around names mean
            nothing.
        split: Splits to keep, "test" or "dev,test". None keeps all rows.
        label_map: {label in the manifest: label to use}, "" for no label.
        time_unit: Unit of start and end, a key of `TIME_UNITS`.

    Returns:
        The manifest.

    Raises:
        UnreadableInput: The file is missing or broken.
        InvalidInput: The file has no rows, or lacks a column or a split; a cell that should hold a number does not; or
            an argument is unknown.
    """
    columns = {field: clean_name(column) for field, column in (columns or {}).items()}
    label_map = {clean_name(label): clean_name(to) for label, to in (label_map or {}).items()}
    if time_unit not in TIME_UNITS:
        raise InvalidInput(f"the time unit {time_unit!r} is unknown; give {' or '.join(TIME_UNITS)}")
    if suffix(path) not in READERS:
        raise InvalidInput(f"{path} has no known suffix; save the manifest as {', '.join(READERS)}")
    with open_bytes(path) as file:
        digest = _digest(file)
    names = {field: columns.get(field, field) for field in FIELDS}
    splits_to_keep = None if split is None else pa.array([clean_name(each) for each in split.split(",")])
    parts = ChunkedTable()
    file_rows: list[np.ndarray] = []
    splits: dict[str, None] = {}  # used as an ordered set
    labels: set[str | None] = set()
    read = 0
    try:
        for part in READERS[suffix(path)](path, {name.lower() for name in names.values()}):
            if not read and "channel" not in columns and not holds_numbers(part, "channel"):
                del names["channel"]  # the channel that published a video, or the like
            part = cast_fields(part, names, path, read, time_unit)
            numbers = np.arange(read + 1, read + 1 + len(part))
            read += len(part)
            if label_map and names["label"] in part.column_names:
                labels.update(pc.unique(part.column(names["label"])).to_pylist())  # pyright: ignore
            if splits_to_keep is not None:
                if names["split"] in part.column_names:
                    column = part.column(names["split"])
                    splits.update(dict.fromkeys(pc.unique(column.drop_null()).to_pylist()))  # pyright: ignore
                    mask = pc.is_in(column, value_set=splits_to_keep)  # pyright: ignore
                else:
                    mask = pa.chunked_array([pa.nulls(len(part), pa.bool_()).fill_null(False)])
                part, numbers = part.filter(mask), numbers[mask.to_numpy()]
            parts.add(part)
            file_rows.append(numbers)
    except UnreadableInput:
        raise
    except (OSError, pa.ArrowException, UnicodeError, csv.Error) as error:
        raise UnreadableInput(f"{path} can't be read ({error}); correct it, or write it again") from error
    if not read:
        raise InvalidInput(f"{path} has no rows; give a manifest with one row per clip")
    table = parts.table()
    missing = {field: column for field, column in columns.items() if column not in table.column_names}
    if missing:
        raise InvalidInput(
            f"{path} has no column {', '.join(f'{column!r} (for {field})' for field, column in missing.items())};"
            f" there are {', '.join(table.column_names)}{_nearest(missing, table.column_names)}"
        )
    if splits_to_keep is not None and not len(table):
        there = f"there are {', '.join(splits)}" if splits else f"it has no splits in a column {names['split']!r}"
        raise InvalidInput(f"{path} has no rows of the split {split!r}; {there}")
    present = {field: column for field, column in names.items() if column in table.column_names}
    numbers = np.concatenate(file_rows)
    width = table.num_columns
    if "id" not in present:
        table, present["id"] = _with_id(table, present, numbers)
    pa.default_memory_pool().release_unused()
    present = {field: present[field] for field in FIELDS if field in present}
    unused = tuple(label for label in label_map if label not in labels)
    return Manifest(path, table, present, digest, label_map, time_unit, numbers, unused, table.num_columns > width)


def _nearest(missing: Mapping[str, str], names: Sequence[str]) -> str:
    """Return advice that names the column most like one that is missing, or ""."""
    for field, column in missing.items():
        if near := nearest_column(column, names):
            return f"; give --columns {field}={near}"
    return ""


def _digest(file: Any) -> str:
    """Return the SHA-256 of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _with_id(table: pa.Table, present: Mapping[str, str], file_rows: np.ndarray) -> tuple[pa.Table, str]:
    """Give ids to a table without a column for "id", and return it with the name of their column."""
    if "filename" in present and not {"start", "end", "channel"} & present.keys():
        return table, present["filename"]

    def text(field: str) -> pa.ChunkedArray:
        if field not in present:
            return pa.chunked_array([pa.array([""] * len(table))])
        return table.column(present[field]).cast(pa.string()).fill_null("")

    join = pc.binary_join_element_wise  # pyright: ignore
    if "filename" in present:
        ids = text("filename")
        if {"start", "end"} & present.keys():
            ids = join(ids, ":", text("start"), "-", text("end"), "")
    elif {"shard", "record"} <= present.keys():
        ids = join(text("shard"), text("record"), ":")
    else:
        ids = pa.array(file_rows).cast(pa.string())
    if "channel" in present:
        ids = join(ids, text("channel"), "#")
    return table.append_column("id", ids), "id"


def write_csv(table: pa.Table, file: Any) -> None:
    """Write a table as CSV into an open file. Lists, structs and bytes are written as JSON."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_large_binary(field.type) or pa.types.is_binary(field.type):
            cells = [None if cell is None else _nested_text(cell) for cell in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(cells, pa.string()))
        elif field.type == pa.string_view():
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    arrow_csv.write_csv(table, file)


def _nested_text(cell: Any) -> str:
    return json.dumps(
        cell, ensure_ascii=False, default=lambda each: f"{len(each)} bytes" if isinstance(each, bytes) else str(each)
    )


def write_manifest(table: pa.Table, path: str) -> None:
    """Write a table as a new CSV file, completely or not at all.

    Args:
        table: The rows.
        path: A file that ends in .csv, on a disk or a bucket.

    Raises:
        InvalidInput: The file exists already, or does not end in .csv.
        UnreadableInput: The file cannot be written.
    """
    folder, name = check_new_manifest(path)
    try:
        folder.make()
        with folder.writing(name) as file:
            write_csv(table, file)
    except OSError as error:
        raise UnreadableInput(f"{path} can't be written ({error.strerror or error}); name another file") from error


def check_new_manifest(path: str) -> tuple[Folder, str]:
    """Check that `write_manifest` can write a file. Nothing is written.

    Args:
        path: A file that ends in .csv, on a disk or a bucket.

    Returns:
        The folder and the name of the file.

    Raises:
        InvalidInput: The file exists already, or does not end in .csv.
    """
    if not path.lower().endswith(".csv"):
        raise InvalidInput(f"{path} can't be written; name a file that ends in .csv")
    above, sign, name = path.rpartition("/")
    folder = Folder.open(above + sign or ".")
    if folder.holds(name):
        raise InvalidInput(f"{path} exists already; name another file, or remove it")
    return folder, name
