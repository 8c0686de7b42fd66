"""Manifests are read and written: CSV, TSV, JSON lines or Parquet, on a disk or a bucket.

Columns of CSV and JSON lines are text, numbers of JSON as they are written ("" and null: missing; a filename 007 stays
007, and NA is a text); those of Parquet keep their types. start, end, seconds and record are numbers everywhere, id,
filename, label, transcription, split and shard text. A million rows are read in parts into Arrow columns: no list of
Python objects is ever as long as the table.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import Folder, in_arrow_memory, is_remote
from .manifest import CHUNK_ROWS, FIELDS, TIME_UNITS, Manifest

BLOCK = 1 << 20  # bytes of CSV at a time; no row may be longer


def parse_columns(text: str) -> dict[str, str]:
    """{field: column} of "filename=path,label=emotion". Raises InvalidInput for what is no field, and for doubles."""
    columns = _pairs(text, "columns", "filename=path,label=emotion")
    unknown = [field for field in columns if field not in FIELDS]
    empty = [field for field, column in columns.items() if not column]
    if unknown or empty:
        raise InvalidInput(
            f"the columns {text!r} don't say which column is {', '.join(unknown + empty)};"
            f" give FIELD=COLUMN, where a field is one of {', '.join(FIELDS)}"
        )
    return columns


def load_label_map(text: str) -> dict[str, str]:
    """{from: to} of "calm=neutral,happy=joy", or of a .json file that holds such an object; to "": no label.

    Raises InvalidInput for what is neither, and UnreadableInput for a file that can't be read.
    """
    if not text.endswith(".json"):
        return _pairs(text, "label map", "calm=neutral,happy=joy")
    try:
        with _open(text) as file:
            found = json.loads(file.read().decode("utf-8-sig"))
    except ValueError as error:
        raise UnreadableInput(f"{text} is no JSON ({error}); give an object of labels, from and to") from error
    if not isinstance(found, dict) or not all(isinstance(to, str | None) for to in found.values()):
        raise InvalidInput(f'{text} is no label map; give an object of labels like {{"calm": "neutral"}}')
    return {label: to or "" for label, to in found.items()}


def _pairs(text: str, what: str, example: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if not all(sign for _, sign, _ in pairs) or not all(names) or len(set(names)) < len(names):
        raise InvalidInput(f"the {what} {text!r} can't be used; give each name once, like {example}")
    return {name: value.strip() for name, (_, _, value) in zip(names, pairs, strict=True)}


# --- reading


def read_manifest(
    path: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    label_map: Mapping[str, str] | None = None,
    time_unit: str = "s",
) -> Manifest:
    """Read a manifest: .csv, .tsv, .jsonl or .parquet.

    `columns` is {field: column} where names differ from `FIELDS`; `split` names the splits to keep ("test", or
    "dev,test"); `time_unit` is that of start and end. Raises UnreadableInput for a file that is missing or broken, and
    InvalidInput for one that is no list of clips, for a column or split that it does not have, and for times that are
    no numbers.
    """
    columns, label_map = dict(columns or {}), dict(label_map or {})
    if time_unit not in TIME_UNITS:
        raise InvalidInput(f"the time unit {time_unit!r} is unknown; give {' or '.join(TIME_UNITS)}")
    suffix = path[path.rfind(".") :].lower()
    if suffix not in READERS:
        raise InvalidInput(f"{path} can't be told by its name; give a manifest that ends in {', '.join(READERS)}")
    with _open(path) as file:
        digest = _digest(file)
    named = {field: columns.get(field, field) for field in FIELDS}
    wanted = None if split is None else pa.array([each.strip() for each in split.split(",")])
    parts = _Chunks()
    file_rows: list[np.ndarray] = []
    splits: dict[str, None] = {}
    labels: set[str | None] = set()
    read = 0
    try:
        for part in READERS[suffix](path):
            part = _typed(part, named, path, read)
            numbers = np.arange(read + 1, read + 1 + len(part))
            read += len(part)
            if label_map and named["label"] in part.column_names:
                labels.update(pc.unique(part.column(named["label"])).to_pylist())  # pyright: ignore
            if wanted is not None:
                if named["split"] in part.column_names:
                    column = part.column(named["split"])
                    splits.update(dict.fromkeys(pc.unique(column.drop_null()).to_pylist()))  # pyright: ignore
                    mask = pc.is_in(column, value_set=wanted)  # pyright: ignore
                else:
                    mask = pa.chunked_array([pa.nulls(len(part), pa.bool_()).fill_null(False)])
                part, numbers = part.filter(mask), numbers[mask.to_numpy()]
            parts.add(part)
            file_rows.append(numbers)
    except UnreadableInput:
        raise
    except (OSError, pa.ArrowException, UnicodeError, csv.Error) as error:
        fault = _csv_fault(path, READERS[suffix]) or str(error)
        raise UnreadableInput(f"{path} can't be read ({fault}); mend it, or write it anew") from error
    if not read:
        raise InvalidInput(f"{path} has no rows; give a manifest with a row a clip")
    table = parts.table()
    lacking = {field: column for field, column in columns.items() if column not in table.column_names}
    if lacking:
        raise InvalidInput(
            f"{path} has no column {', '.join(f'{column!r} (for {field})' for field, column in lacking.items())};"
            f" there are {', '.join(table.column_names)}"
        )
    if wanted is not None and not len(table):
        there = f"there are {', '.join(splits)}" if splits else f"it has no splits in a column {named['split']!r}"
        raise InvalidInput(f"{path} has no rows of the split {split!r}; {there}")
    held = {field: column for field, column in named.items() if column in table.column_names}
    numbers = np.concatenate(file_rows)
    width = table.num_columns
    if "id" not in held:
        table, held["id"] = _with_id(table, held, numbers)
    pa.default_memory_pool().release_unused()
    held = {field: held[field] for field in FIELDS if field in held}
    unused = tuple(label for label in label_map if label not in labels)
    return Manifest(path, table, held, digest, label_map, time_unit, numbers, unused, table.num_columns > width)


def _open(path: str) -> Any:
    """The bytes of a file on a disk or a bucket, to read."""
    try:
        return fsspec.open(path, "rb").open() if is_remote(path) else open(path, "rb")  # pyright: ignore
    except (OSError, ImportError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise UnreadableInput(f"{path} can't be read ({reason}); check its path") from error


def _open_to_arrow(path: str) -> Any:
    return in_arrow_memory(_open(path)) if is_remote(path) else path


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _read_csv(path: str, delimiter: str = ",") -> Iterator[pa.Table]:
    """In blocks, all columns text."""
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    reading = arrow_csv.ReadOptions(block_size=BLOCK)
    with _open(path) as file:
        quotes = sum(block.count(b'"') for block in iter(lambda: file.read(1 << 20), b""))
    if quotes % 2 and (fault := _csv_fault(path, READERS[path[path.rfind(".") :].lower()])):
        raise pa.ArrowInvalid(fault)  # Arrow takes all after a quote that is never closed for one cell
    with _open(path) as file:
        head = file.read(BLOCK)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        return
    # By Python, since Arrow reads ahead in a thread, which would still run when the header is all that is wanted.
    with _open(path) as file:
        lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter)
        names = next(line for line in lines if line)
    _refuse_doubles(names, path)
    text = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    with arrow_csv.open_csv(_open_to_arrow(path), reading, parse, text) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _read_tsv(path: str) -> Iterator[pa.Table]:
    return _read_csv(path, "\t")


def _csv_fault(path: str, reader: object) -> str | None:
    """Where a CSV file is broken, which Arrow does not say; None where this finds nothing, or it is no CSV."""
    if reader not in (_read_csv, _read_tsv):
        return None
    rows = None
    try:
        with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines, delimiter="\t" if reader is _read_tsv else ",", strict=True)
            width = len(next(rows))
            for row in rows:
                if row and len(row) != width:
                    return f"line {rows.line_num} has {len(row)} cells, the first {width}"
    except UnicodeError:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeError:
                    return f"line {number} is not UTF-8"
    except csv.Error as error:
        what = "a quote is never closed" if "unexpected end" in str(error) else str(error)
        return f"line {rows.line_num if rows else 1}: {what}"
    except StopIteration:
        pass
    return None


def _read_jsonl(path: str) -> Iterator[pa.Table]:
    """An object a line; all columns text. Rows need not have the same keys."""
    lines: list[dict[str, str | None]] = []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
                if not isinstance(found, dict):
                    raise ValueError("it is no object")
                lines.append({name: _text(value) for name, value in found.items()})
            except (ValueError, RecursionError) as error:
                what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is no row: {error}"
                raise UnreadableInput(f"line {number} of {path} {what}; give a JSON object a line") from error
            if len(lines) == CHUNK_ROWS // 4:
                yield _columns_of(lines)
                lines = []
    if lines:
        yield _columns_of(lines)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _text(value: object) -> str | None:
    """A cell of JSON as text; what is missing is None, as in CSV."""
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text
        return value or None
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _columns_of(lines: list[dict[str, str | None]]) -> pa.Table:
    names = dict.fromkeys(name for line in lines for name in line)
    return pa.table({name: pa.array([line.get(name) for line in lines], pa.string()) for name in names})


def _read_parquet(path: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(_open_to_arrow(path)) as parquet:
        _refuse_doubles(parquet.schema_arrow.names, path)
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch])


class _Chunks:
    """Gathers a table in chunks of `CHUNK_ROWS` rows: many small ones would leave the memory full of holes."""

    def __init__(self) -> None:
        self.chunks: list[pa.Table] = []
        self.waiting: list[pa.Table] = []
        self.repeats: dict[str, bool] = {}  # whether a column is a dictionary, as its first whole chunk decides

    def add(self, part: pa.Table) -> None:
        self.waiting.append(part)
        if sum(map(len, self.waiting)) >= CHUNK_ROWS:
            self._gather(decide=True)

    def table(self) -> pa.Table:
        if self.waiting:
            self._gather(decide=False)
        return pa.concat_tables(self.chunks, promote_options="default")

    def _gather(self, decide: bool) -> None:
        chunk = pa.concat_tables(self.waiting, promote_options="default").combine_chunks()
        self.waiting = []
        for place, field in enumerate(chunk.schema):
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                coded = chunk.column(place).dictionary_encode()
                if decide and field.name not in self.repeats:
                    self.repeats[field.name] = 2 * len(coded.chunk(0).dictionary) < len(chunk)  # pyright: ignore
                if self.repeats.get(field.name):
                    chunk = chunk.set_column(place, field.name, coded)
        self.chunks.append(chunk)


READERS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _refuse_doubles(names: Collection[str], path: str) -> None:
    doubles = [name for name, times in Counter(names).items() if times > 1]
    if doubles:
        raise InvalidInput(f"{path} has more than one column {', '.join(map(repr, doubles))}; give each its own name")


def _typed(part: pa.Table, named: Mapping[str, str], path: str, before: int) -> pa.Table:
    """The part with its fields' columns of the fields' types. `before` are the rows above it."""
    for field, column in named.items():
        if column not in part.column_names or (kind := FIELDS[field]) == (cells := part.column(column)).type:
            continue
        if pa.types.is_dictionary(cells.type):
            cells = cells.cast(cells.type.value_type)
        try:
            typed = cells.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            for number, cell in enumerate(cells.to_pylist(), start=before + 1):
                try:
                    pa.array([cell]).cast(kind)
                except pa.ArrowException as error:
                    what = {pa.float64(): "number", pa.int64(): "whole number"}.get(kind, "text")
                    raise InvalidInput(
                        f"{path}: row {number} has {cell!r} in the column {column!r}, which is no {what}; mend it, or"
                        f" say which column is {field}"
                    ) from error
            raise
        part = part.set_column(part.column_names.index(column), column, typed)
    return part


def _with_id(table: pa.Table, held: Mapping[str, str], file_rows: np.ndarray) -> tuple[pa.Table, str]:
    """(The table, the column that tells clips apart), for one that has no column id."""
    if "filename" in held and not {"start", "end"} & held.keys():
        return table, held["filename"]

    def text(field: str) -> pa.ChunkedArray:
        if field not in held:
            return pa.chunked_array([pa.array([""] * len(table))])
        return table.column(held[field]).cast(pa.string()).fill_null("")

    join = pc.binary_join_element_wise  # pyright: ignore
    if "filename" in held:
        ids = join(text("filename"), ":", text("start"), "-", text("end"), "")
    elif {"shard", "record"} <= held.keys():
        ids = join(text("shard"), text("record"), ":")
    else:
        ids = pa.array(file_rows).cast(pa.string())
    return table.append_column("id", ids), "id"


# --- writing


def write_manifest(table: pa.Table, path: str) -> None:
    """Write a table as a new CSV, whole or not at all. Raises InvalidInput for another suffix, or where one is."""
    if not path.lower().endswith(".csv"):
        raise InvalidInput(f"{path} can't be written; name a file that ends in .csv")
    above, sign, name = path.rpartition("/")
    folder = Folder.open(above + sign or ".")
    if folder.holds(name):
        raise InvalidInput(f"{path} exists already; name another file, or remove it")
    try:
        folder.make()
        with folder.writing(name) as file:
            arrow_csv.write_csv(table, file)
    except OSError as error:
        raise UnreadableInput(f"{path} can't be written ({error.strerror or error}); name another file") from error
