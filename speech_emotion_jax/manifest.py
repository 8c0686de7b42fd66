"""The list of clips to score: a CSV, TSV, JSON-lines or Parquet file, on a disk or a bucket, as an Arrow table.

A row is a clip. Which column says what is a matter of `FIELDS`, whose names are those of the columns unless they are
mapped; all other columns are carried along. Columns of CSV and JSON lines are text, numbers of JSON as they are written
("" and null: missing; a filename 007 stays 007, and NA is a text); those of Parquet keep their types. start, end,
seconds and record are numbers everywhere, id, filename, label, transcription, split and shard text.

A million rows are read in parts into Arrow columns and checked in parts, by the hash of what must be told apart: no
list of Python objects is ever as long as the table, apart from what `truth` gives.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int
from pyarrow import csv as arrow_csv

from .errors import InvalidInput, UnreadableInput
from .runtime.storage import Folder, in_arrow_memory, is_remote

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
RESERVED = frozenset({"text", "top_label", "top_score", "duration", "truncated", "error"})  # columns of the results
SHOWN = 5  # of each kind of problem
PART = 65536  # rows of a chunk of the table, and rows that are Python objects at a time
BLOCK = 1 << 20  # bytes of CSV at a time; no row may be longer
LISTED = 64  # from so many files of a folder on, it is listed instead of asked for each


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

    Where there are more than `PART` rows, columns of texts that repeat themselves are dictionaries.

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
    data_rows: Int[np.ndarray, " rows"]  # the number of each row in the file, from 1
    unused_map: tuple[str, ...]  # what label_map maps and no row of the file has, whatever its split
    id_added: bool  # whether the last column, id, is not of the file

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

    def truth(self) -> list[str | None]:
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


# --- what the flags say


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
    data_rows: list[np.ndarray] = []
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
            data_rows.append(numbers)
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
    numbers = np.concatenate(data_rows)
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
            if len(lines) == PART // 4:
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
        for batch in parquet.iter_batches(batch_size=PART, use_threads=False):
            yield pa.Table.from_batches([batch])


class _Chunks:
    """Gathers a table in chunks of `PART` rows: many small ones would leave the memory full of holes."""

    def __init__(self) -> None:
        self.chunks: list[pa.Table] = []
        self.waiting: list[pa.Table] = []
        self.repeats: dict[str, bool] = {}  # whether a column is a dictionary, as its first whole chunk decides

    def add(self, part: pa.Table) -> None:
        self.waiting.append(part)
        if sum(map(len, self.waiting)) >= PART:
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


def _with_id(table: pa.Table, held: Mapping[str, str], data_rows: np.ndarray) -> tuple[pa.Table, str]:
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
        ids = pa.array(data_rows).cast(pa.string())
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


# --- where a recording lies


def locate(filename: str, audio_root: str | None) -> str:
    """The path of a recording that a manifest names.

    With an audio root it lies under it, even where it is absolute; without one it is taken as it is, from the working
    folder. Neither may have "..". Raises InvalidInput for what climbs out.
    """
    if not _stays(filename, audio_root):
        raise InvalidInput(f"{filename} leaves the audio root; name recordings below it")
    return filename if audio_root is None else os.path.join(audio_root, filename)


def _stays(filename: str, audio_root: str | None) -> bool:
    if "\0" in filename or (".." in filename and ".." in filename.replace(os.sep, "/").split("/")):
        return False
    if audio_root is None or not os.path.isabs(filename):
        return True
    return os.path.normpath(filename).startswith(os.path.join(os.path.abspath(audio_root), ""))


# --- validation


class Problem(NamedTuple):
    """One kind of problem: what, how many times, and the first ones."""

    what: str
    times: int
    first: list[str]

    def __str__(self) -> str:
        more = f", and {self.times - len(self.first):,} more" if self.times > len(self.first) else ""
        return f"{self.what} ({self.times:,}): {', '.join(self.first)}{more}"


def validate(
    manifest: Manifest, *, audio_root: str | None, needs_audio: bool, needs_text: bool, labels: Sequence[str]
) -> None:
    """Check that every row can be scored, before any is.

    `labels` are the checkpoint's. Recordings lie under `audio_root`, or, without one, where the manifest says (see
    `locate`). Raises one InvalidInput whose first line counts the problems, with a line for each kind, the first rows
    of it, and what to do.
    """
    problems = [
        *_column_problems(manifest, needs_audio, needs_text),
        *_id_problems(manifest),
        *(_audio_problems(manifest, audio_root) if needs_audio else ()),
        *(_text_problems(manifest) if needs_text else ()),
        *_label_problems(manifest, labels),
    ]
    pa.default_memory_pool().release_unused()
    if problems:
        kinds = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InvalidInput(
            "\n  ".join([f"{manifest.name} can't be used: {kinds}; nothing was begun", *map(str, problems)])
        )


def _column_problems(manifest: Manifest, needs_audio: bool, needs_text: bool) -> Iterator[Problem]:
    held, names = manifest.columns, manifest.table.column_names
    missing = [
        *(["filename"] if needs_audio and not {"filename", "shard"} & held.keys() else []),
        *(["record"] if "shard" in held and "record" not in held and needs_audio else []),
        *(["transcription"] if needs_text and "transcription" not in held else []),
    ]
    if missing:
        there = f"there are {', '.join(names[:-1] if manifest.id_added else names)}"
        text = "; --whisper-model transcribes what has no text" if "transcription" in missing else ""
        yield Problem(f"missing columns; {there}; name others with --columns FIELD=COLUMN{text}", len(missing), missing)
    taken = [
        name
        for name in names
        if (name in RESERVED or name.startswith("score_")) and (name, held.get("transcription")) != ("text", "text")
    ]
    if taken:
        yield Problem("columns named like columns of the results; rename them", len(taken), taken[:SHOWN])


def _id_problems(manifest: Manifest) -> Iterator[Problem]:
    ids = manifest.column("id")
    empty = _where(pc.equal(part.fill_null(""), "") for part in _parts(ids))  # pyright: ignore
    yield from _rows_problem(manifest, "rows without an id", empty)
    hashes = _hashes(ids)
    again = np.ones(len(hashes), bool)
    again[np.unique(hashes, return_index=True)[1]] = False
    again &= ~empty
    if again.any():
        shown = [
            f"row {manifest.data_rows[each]}: {ids[each].as_py()}"
            f" (as row {manifest.data_rows[np.argmax(hashes == hashes[each])]})"
            for each in np.flatnonzero(again)[:SHOWN].tolist()
        ]
        column = manifest.columns["id"]
        advice = f"give each row its own in the column {column}, or name another with --columns id=COLUMN"
        yield Problem(f"duplicate ids; {advice}", int(again.sum()), shown)


def _audio_problems(manifest: Manifest, audio_root: str | None) -> Iterator[Problem]:
    held = manifest.columns
    if audio_root is not None and not os.path.isdir(audio_root):
        yield Problem("the audio root is no folder; name the one that the filenames start from", 1, [audio_root])
    elif "shard" in held or "filename" in held:
        field = "shard" if "shard" in held else "filename"
        names = manifest.column(field)
        empty, outside, missing = _absent_files(names, audio_root)
        yield from _rows_problem(manifest, f"rows without a {field}", empty)
        where = f"; name files below {audio_root}, without .." if audio_root else "; name files without .."
        yield from _rows_problem(manifest, f"{field}s that leave the audio root{where}", outside, names)
        where = f" under {audio_root}" if audio_root else ""
        yield from _rows_problem(manifest, f"missing files{where}, each counted once", missing, names)
    if "shard" in held and "record" in held:
        wrong = _where(pc.less(chunk.fill_null(-1), 0) for chunk in manifest.column("record").chunks)  # pyright: ignore
        yield from _rows_problem(manifest, "records that are no number from 0", wrong, manifest.column("record"))
    start, end, seconds = (
        manifest.column(field).to_numpy() if field in held else None for field in ("start", "end", "seconds")
    )
    if start is not None or end is not None:
        begins = np.zeros(len(manifest)) if start is None else _filled(manifest.column("start"), 0.0)
        ends = np.full(len(manifest), np.inf) if end is None else _filled(manifest.column("end"), np.inf)
        given = np.zeros(len(manifest), bool) if end is None else _valid(manifest.column("end"))
        wrong = ~((begins >= 0) & (begins < ends) & (np.isfinite(ends) | ~given))
        first = [
            f"row {manifest.data_rows[each]}: {begins[each]:.15g} to {ends[each]:.15g}"
            for each in np.flatnonzero(wrong)[:SHOWN]
        ]
        if first:
            yield Problem("cuts that are not 0 <= start < end", int(wrong.sum()), first)
    if seconds is not None:
        stated = _valid(manifest.column("seconds"))
        wrong = stated & ~((seconds > 0) & (seconds < np.inf))
        yield from _rows_problem(manifest, "seconds that are no length", wrong, manifest.column("seconds"))


def _text_problems(manifest: Manifest) -> Iterator[Problem]:
    if "transcription" not in manifest.columns:
        return
    empty = _where(
        pc.equal(pc.utf8_trim_whitespace(part.fill_null("")), "")  # pyright: ignore
        for part in _parts(manifest.column("transcription"))
    )
    advice = "give them one, or name a Whisper model to transcribe with"
    yield from _rows_problem(manifest, f"rows without a text; {advice}", empty)


def _label_problems(manifest: Manifest, labels: Sequence[str]) -> Iterator[Problem]:
    counts: Counter[str] = Counter(label for label in manifest.truth() if label is not None)
    unknown = sorted((label for label in counts if label not in labels), key=lambda label: (-counts[label], label))
    if unknown:
        advice = f"the checkpoint has {', '.join(labels)}; map them with --label-map FROM=TO, or to nothing with FROM="
        shown = [f"{label} ({counts[label]:,} rows)" for label in unknown[:SHOWN]]
        yield Problem(f"unknown labels; {advice}", len(unknown), shown)
    if manifest.unused_map:
        shown = list(manifest.unused_map[:SHOWN])
        yield Problem("labels of the label map that no row has", len(manifest.unused_map), shown)


def _rows_problem(
    manifest: Manifest, what: str, wrong: Bool[np.ndarray, " rows"], names: pa.ChunkedArray | None = None
) -> Iterator[Problem]:
    """A problem of those rows, if there are any, shown by their numbers in the file and what `names` calls them."""
    found = np.flatnonzero(wrong)
    if len(found):
        rows = [f"row {manifest.data_rows[each]}" for each in found[:SHOWN]]
        if names is not None:
            rows = [f"{row}: {names[int(each)].as_py()}" for row, each in zip(rows, found[:SHOWN], strict=True)]
        yield Problem(what, len(found), rows)


def _where(masks: Iterator[pa.Array]) -> Bool[np.ndarray, " rows"]:
    return np.concatenate([mask.to_numpy(zero_copy_only=False) for mask in masks])


def _filled(column: pa.ChunkedArray, value: float) -> np.ndarray:
    return column.fill_null(value).to_numpy()


def _valid(column: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
    return column.is_valid().to_numpy()


def _parts(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """A column in parts that are small enough to be Python objects, dictionaries looked up."""
    for chunk in column.chunks:
        for begin in range(0, len(chunk), PART):
            part = chunk.slice(begin, PART)
            yield part.dictionary_decode() if isinstance(part, pa.DictionaryArray) else part


def _hashes(column: pa.ChunkedArray) -> Int[np.ndarray, " rows"]:
    """64 bits a cell: among a million different ones, the chance that any two are alike is 3e-8."""
    values = (hash(value) for part in _parts(column) for value in part.to_pylist())
    return np.fromiter(values, np.int64, len(column))


def _absent_files(
    names: pa.ChunkedArray, audio_root: str | None
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Rows (that name no file, whose file is not below the audio root, whose file is first named here and missing).

    A folder of many named files is listed once, and only those that the list does not have are asked for one by one:
    a file server answers thousands of names at the price of one.
    """
    empty, outside, missing = (np.zeros(len(names), bool) for _ in range(3))
    first = np.zeros(len(names), bool)
    first[np.unique(_hashes(names), return_index=True)[1]] = True
    folders: dict[str, int] = {}
    folder = np.full(len(names), -1, np.int32)
    base = np.zeros(len(names), np.int64)
    row = -1
    for part in _parts(names):
        for name in part.to_pylist():
            row += 1
            if not name:
                empty[row] = True
            elif not _stays(name, audio_root):
                outside[row] = True
            elif first[row]:
                above, _, below = name.rpartition("/")
                folder[row] = folders.setdefault(above + "/" if name.startswith("/") else above, len(folders))
                base[row] = hash(below)
    root = audio_root or ""
    order = np.argsort(folder, kind="stable")
    bounds = np.searchsorted(folder[order], np.arange(len(folders) + 1))
    for number, above in enumerate(folders):
        members = order[bounds[number] : bounds[number + 1]]
        if len(members) >= LISTED:
            members = members[~np.isin(base[members], _listed(os.path.join(root, above) or "."))]
        for each in members.tolist():
            missing[each] = not os.path.isfile(os.path.join(root, names[each].as_py()))
    return empty, outside, missing


def _listed(folder: str) -> Int[np.ndarray, " files"]:
    """Hashes of the names of the files in a folder."""
    try:
        with os.scandir(folder) as entries:
            return np.fromiter((hash(entry.name) for entry in entries if entry.is_file()), np.int64)
    except OSError:
        return np.empty(0, np.int64)
