"""Read the file formats of manifests as Arrow tables, part by part.

All columns of CSV and JSON are text, and numbers of JSON keep their spelling. "", null and JSON's NaN are missing
values, but the text NA is not. Columns of Parquet keep their types.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from ..errors import InvalidInput, UnreadableInput
from ..runtime.addresses import is_remote
from ..runtime.storage import arrow_buffer
from .csv_dialect import QUOTE, CsvDialect, recognise
from .manifest import CHUNK_ROWS

BLOCK = 1 << 20  # bytes of CSV that are read at a time; no row may be longer
DECIMAL_COMMA = b"decimal_comma"  # key of a table's metadata: numbers may be written 1,5


def suffix(path: str) -> str:
    """Return the lower-case suffix of a path or URL, with its dot."""
    return path[path.rfind(".") :].lower()


def open_bytes(path: str) -> Any:
    """Open a file on a disk or a bucket for reading bytes.

    Raises:
        UnreadableInput: The file cannot be opened.
    """
    try:
        return fsspec.open(path, "rb").open() if is_remote(path) else open(path, "rb")  # pyright: ignore
    except (OSError, ImportError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise UnreadableInput(f"{path} can't be read ({reason}); check its path") from error


def _open_to_arrow(path: str) -> Any:
    return arrow_buffer(open_bytes(path)) if is_remote(path) else path


def _read_csv(path: str, known: Collection[str], separator: str = ",") -> Iterator[pa.Table]:
    """Read a CSV file in blocks. Blank lines are no rows."""
    dialect = recognise(path, lambda: open_bytes(path), separator, known)
    names = clean_names(dialect.header, path)
    if not names:
        return
    if dialect.note:
        warnings.warn(dialect.note, stacklevel=4)
    parse = arrow_csv.ParseOptions(
        delimiter=dialect.separator, quote_char=dialect.quoted and QUOTE, newlines_in_values=dialect.quoted
    )
    reading = arrow_csv.ReadOptions(
        block_size=BLOCK, column_names=names, skip_rows=dialect.skipped, skip_rows_after_names=1
    )
    text = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    if dialect.encoding in ("utf-8", "utf-8-sig"):
        source = _open_to_arrow(path)
    else:
        with open_bytes(path) as file:
            source = pa.BufferReader(file.read().decode(dialect.encoding).encode())
    decimal_comma = {DECIMAL_COMMA: ""} if dialect.separator in ";\t" else None
    try:
        with arrow_csv.open_csv(source, reading, parse, text) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]).replace_schema_metadata(decimal_comma)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        fault = _csv_fault(path, dialect) or str(error)
        raise UnreadableInput(f"{path} can't be read ({fault}); correct it, or write it again") from error


def _read_tsv(path: str, known: Collection[str]) -> Iterator[pa.Table]:
    return _read_csv(path, known, "\t")


def _csv_fault(path: str, dialect: CsvDialect) -> str | None:
    """Find the row that has another number of cells than the header, which Arrow's errors do not say."""
    with open_bytes(path) as file, io.TextIOWrapper(file, dialect.encoding, newline="") as lines:
        for _ in range(dialect.skipped):
            next(lines)
        rows = dialect.rows(lines)
        try:
            for row in rows:
                if row and len(row) != len(dialect.header):
                    line = dialect.skipped + rows.line_num
                    return f"line {line} has {len(row)} cells, the first {len(dialect.header)}"
        except csv.Error as error:
            return f"line {dialect.skipped + rows.line_num}: {error}"
    return None


def _read_json(path: str, known: Collection[str]) -> Iterator[pa.Table]:
    """Read a file with one JSON object per line, or one array of objects. Rows need not have the same keys."""
    rows: list[dict[str, str | None]] = []
    with open_bytes(path) as file:
        start = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    for row in _array_rows(path) if start.startswith(b"[") else _line_rows(path):
        rows.append(row)
        if len(rows) == CHUNK_ROWS // 4:
            yield _columns_of(rows, path)
            rows = []
    if rows:
        yield _columns_of(rows, path)


def _line_rows(path: str) -> Iterator[dict[str, str | None]]:
    """Yield the rows of JSON lines."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                yield _json_row(json.loads(line.decode("utf-8"), object_pairs_hook=_object))
            except (ValueError, RecursionError) as error:
                what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not a row: {error}"
                raise UnreadableInput(f"line {number} of {path} {what}; give a JSON object a line") from error


def _array_rows(path: str) -> Iterator[dict[str, str | None]]:
    """Yield the objects of a JSON array."""
    done = 0
    try:
        with open_bytes(path) as file:
            values = json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_object)
        for value in values:
            yield _json_row(value)
            done += 1
    except (ValueError, RecursionError) as error:
        raise UnreadableInput(
            f"{path} is no array of rows (after {done:,} rows: {error}); give an array of objects, or an object a line"
        ) from error


def _json_row(row: object) -> dict[str, str | None]:
    """Return the cells of a JSON object. Raises ValueError if it is not a row."""
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if row and (all(isinstance(value, dict) for value in row.values()) or {"columns", "data"} <= row.keys()):
        raise ValueError("it is a table written by columns; write it with pandas' to_json(orient='records')")
    return {name: _text(value) for name, value in row.items()}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, and refuse duplicate keys."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("it has a key twice")
    return row


def _text(value: object) -> str | None:
    """Convert a JSON value to text. A missing value is None, as in CSV, and so is Python's NaN."""
    if isinstance(value, str):
        value.encode()  # a lone surrogate is not valid text
        return value or None
    return None if value is None or value != value else json.dumps(value, ensure_ascii=False)


def _columns_of(lines: list[dict[str, str | None]], path: str) -> pa.Table:
    keys = list(dict.fromkeys(name for line in lines for name in line))
    columns = [pa.array([line.get(name) for line in lines], pa.string()) for name in keys]
    return pa.table(columns, clean_names(keys, path))


def _read_parquet(path: str, known: Collection[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(_open_to_arrow(path)) as parquet:
        names = clean_names(parquet.schema_arrow.names, path)
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch]).rename_columns(names)


class ChunkedTable:
    """Collects a table in chunks of `CHUNK_ROWS` rows. Many small chunks would fragment the memory."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.chunks: list[pa.Table] = []
        self.waiting: list[pa.Table] = []
        self.repeats: dict[str, bool] = {}  # whether to dictionary-encode a column, decided at its first full chunk

    def add(self, part: pa.Table) -> None:
        """Append rows."""
        self.waiting.append(part)
        if sum(map(len, self.waiting)) >= CHUNK_ROWS:
            self._gather(decide=True)

    def table(self) -> pa.Table:
        """Return all rows that were added."""
        if self.waiting:
            self._gather(decide=False)
        return pa.concat_tables(self.chunks, promote_options="default")

    def _gather(self, decide: bool) -> None:
        """Join the waiting parts to one chunk. With `decide`, choose which columns to dictionary-encode from now on."""
        chunk = pa.concat_tables(self.waiting, promote_options="default").combine_chunks()
        self.waiting = []
        for place, field in enumerate(chunk.schema):
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                encoded = chunk.column(place).dictionary_encode()
                if decide and field.name not in self.repeats:
                    self.repeats[field.name] = 2 * len(encoded.chunk(0).dictionary) < len(chunk)  # pyright: ignore
                if self.repeats.get(field.name):
                    chunk = chunk.set_column(place, field.name, encoded)
        self.chunks.append(chunk)


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def clean_name(name: str) -> str:
    """Return a column's name without blanks around it, in composed letters."""
    return unicodedata.normalize("NFC", name).strip()


def clean_names(names: Sequence[str], path: str) -> list[str]:
    """Return the names of the columns, see `clean_name`. Of several without a name, each is called as pandas does.

    Raises:
        InvalidInput: Two columns have the same name.
    """
    cleaned = [clean_name(name) for name in names]
    if cleaned.count("") > 1:
        cleaned = [name or f"Unnamed: {place}" for place, name in enumerate(cleaned)]
    duplicates = [name for name, times in Counter(cleaned).items() if times > 1]
    if duplicates:
        raise InvalidInput(
            f"{path} has more than one column {', '.join(map(repr, duplicates))}; give each its own name"
        )
    return cleaned
