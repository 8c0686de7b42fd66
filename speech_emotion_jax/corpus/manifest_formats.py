"""Read the file formats of manifests as Arrow tables, part by part.

All columns of CSV and JSON lines are text, and numbers of JSON keep their spelling. "" and null are missing values, but
the text NA is not. Columns of Parquet keep their types.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import arrow_buffer, is_remote
from .manifest import CHUNK_ROWS

BLOCK = 1 << 20  # bytes of CSV that are read at a time; no row may be longer


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


def _read_csv(path: str, delimiter: str = ",") -> Iterator[pa.Table]:
    """Read a CSV file in blocks."""
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    reading = arrow_csv.ReadOptions(block_size=BLOCK)
    with open_bytes(path) as file:
        quotes = sum(block.count(b'"') for block in iter(lambda: file.read(1 << 20), b""))
    # Arrow reads everything after a quote that is never closed as one cell.
    if quotes % 2 and (fault := csv_fault(path)):
        raise pa.ArrowInvalid(fault)
    with open_bytes(path) as file:
        head = file.read(BLOCK)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        return
    # Python reads the header, since Arrow would start a thread that reads ahead and is hard to stop.
    with open_bytes(path) as file:
        lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter)
        names = next(line for line in lines if line)
    _refuse_duplicates(names, path)
    text = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    with arrow_csv.open_csv(_open_to_arrow(path), reading, parse, text) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _read_tsv(path: str) -> Iterator[pa.Table]:
    return _read_csv(path, "\t")


def csv_fault(path: str) -> str | None:
    """Find where a CSV or TSV file is broken, which Arrow's errors do not say.

    Args:
        path: A manifest of any format.

    Returns:
        The fault and its line, or None if none is found or the file has another format.
    """
    delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix(path))
    if delimiter is None:
        return None
    rows = None
    try:
        with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            width = len(next(rows))
            for row in rows:
                if row and len(row) != width:
                    return f"line {rows.line_num} has {len(row)} cells, the first {width}"
    except UnicodeError:
        with open_bytes(path) as file:
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
    """Read a file with one JSON object per line. Rows need not have the same keys."""
    lines: list[dict[str, str | None]] = []
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
                if not isinstance(row, dict):
                    raise ValueError("it is not an object")
                lines.append({name: _text(value) for name, value in row.items()})
            except (ValueError, RecursionError) as error:
                what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not a row: {error}"
                raise UnreadableInput(f"line {number} of {path} {what}; give a JSON object a line") from error
            if len(lines) == CHUNK_ROWS // 4:
                yield _columns_of(lines)
                lines = []
    if lines:
        yield _columns_of(lines)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, and refuse duplicate keys."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("it has a key twice")
    return row


def _text(value: object) -> str | None:
    """Convert a JSON value to text. A missing value is None, as in CSV."""
    if isinstance(value, str):
        value.encode()  # a lone surrogate is not valid text
        return value or None
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _columns_of(lines: list[dict[str, str | None]]) -> pa.Table:
    names = dict.fromkeys(name for line in lines for name in line)
    return pa.table({name: pa.array([line.get(name) for line in lines], pa.string()) for name in names})


def _read_parquet(path: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(_open_to_arrow(path)) as parquet:
        _refuse_duplicates(parquet.schema_arrow.names, path)
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch])


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


READERS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _refuse_duplicates(columns: Collection[str], path: str) -> None:
    """Raise InvalidInput if two columns have the same name."""
    duplicates = [column for column, times in Counter(columns).items() if times > 1]
    if duplicates:
        raise InvalidInput(
            f"{path} has more than one column {', '.join(map(repr, duplicates))}; give each its own name"
        )
