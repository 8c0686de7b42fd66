"""Give the columns of a manifest the types of its fields.

What Python and pandas write for a missing value is missing: "", nan, NaN, NaT, <NA> and None. The words NA and null are
texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidInput
from .manifest import FIELDS, NOTHING, TIME_UNITS
from .manifest_formats import DECIMAL_COMMA

_TIMES = ("start", "end", "seconds")
_NAMES = ("label", "split")  # fields whose cells are names: blanks around them mean nothing
# pandas' 0 days 00:00:01.5, or 00:00:01.5
_DURATION = re.compile(r"(?:(\d+) days? )?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_SHOWN = 60  # characters of a cell that a message shows at most


def cast_fields(part: pa.Table, names: Mapping[str, str], path: str, before: int, time_unit: str) -> pa.Table:
    """Cast the columns of the fields to the types of the fields.

    Args:
        part: Rows of the manifest.
        names: {field: column}.
        path: Path of the manifest for messages.
        before: Number of rows before this part.
        time_unit: Unit of start and end, a key of `TIME_UNITS`.

    Returns:
        The rows with cast columns.

    Raises:
        InvalidInput: A cell can't be cast. The message names its row and column.
    """
    decimal_comma = DECIMAL_COMMA in (part.schema.metadata or {})
    for field, column in names.items():
        if column not in part.column_names:
            continue
        unit = TIME_UNITS[time_unit] if field in ("start", "end") else 1.0
        cells = _clean(part.column(column), field)
        if field in _TIMES:
            cells = _to_seconds(cells, unit, decimal_comma)
        typed = _cast(cells, field, column, path, before)
        part = part.set_column(part.column_names.index(column), column, typed)
    return part.replace_schema_metadata(None)


def holds_numbers(part: pa.Table, column: str) -> bool:
    """Return whether a column is missing or holds whole numbers."""
    if column not in part.column_names:
        return True
    try:
        _clean(part.column(column), "channel").cast(pa.int64())
    except pa.ArrowException:
        return False
    return True


def _clean(cells: pa.ChunkedArray, field: str) -> pa.ChunkedArray:
    """Replace missing values by null, and strip and compose names."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if pa.types.is_floating(cells.type):
        return pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)  # pyright: ignore
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type) or cells.type == pa.string_view()):
        return cells
    cells = cells.cast(pa.string())
    missing = pc.is_in(cells, value_set=pa.array(NOTHING))  # pyright: ignore
    if FIELDS[field] != pa.string():
        missing = pc.or_kleene(missing, pc.equal(cells, ""))  # pyright: ignore
    if FIELDS[field] == pa.int64():  # pandas writes whole numbers so where one is missing
        cells = pc.replace_substring_regex(cells, r"^(\d+)\.0$", r"\1")  # pyright: ignore
    if pc.any(missing).as_py():  # pyright: ignore
        cells = pc.if_else(missing, pa.scalar(None, pa.string()), cells)  # pyright: ignore
    if field in _NAMES:
        cells = pc.utf8_trim_whitespace(cells)  # pyright: ignore
    if not pc.all(pc.string_is_ascii(cells)).as_py():  # pyright: ignore
        cells = pc.utf8_normalize(cells, form="NFC")  # pyright: ignore
    return cells


def _to_seconds(cells: pa.ChunkedArray, unit: float, decimal_comma: bool) -> pa.ChunkedArray:
    """Convert durations and decimal commas to plain numbers in the unit."""
    if pa.types.is_duration(cells.type):
        nanoseconds = cells.cast(pa.duration("ns")).cast(pa.int64()).cast(pa.float64(), safe=False)
        return pc.multiply(nanoseconds, unit / 1e9)  # pyright: ignore
    if not pa.types.is_string(cells.type):
        return cells
    if decimal_comma:
        cells = pc.replace_substring_regex(cells, r"^(-?\d+),(\d+)$", r"\1.\2")  # pyright: ignore
    if pc.any(pc.match_substring(cells, ":")).as_py():  # pyright: ignore
        return pa.chunked_array([[_seconds_text(cell, unit) for cell in cells.to_pylist()]], pa.string())
    return cells


def _seconds_text(cell: str | None, unit: float) -> str | None:
    match = _DURATION.fullmatch(cell or "")
    if match is None:
        return cell
    days, hours, minutes, seconds = match.groups()
    return repr(((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 * unit + float(seconds) * unit)


def _cast(cells: pa.ChunkedArray, field: str, column: str, path: str, before: int) -> pa.ChunkedArray:
    """Cast cells to the type of a field."""
    kind = FIELDS[field]
    if cells.type == kind:
        return cells
    try:
        return cells.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # Arrow does not name the cell, so look for it
        for number, cell in enumerate(cells, start=before + 1):
            try:
                pa.array([cell.as_py()], cells.type).cast(kind)
            except pa.ArrowException as error:
                what = {pa.float64(): "a number", pa.int64(): "a whole number"}.get(kind, "text")
                shown = repr(cell.as_py())
                shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
                raise InvalidInput(
                    f"{path}: row {number} has {shown} in the column {column!r}, which is not {what}; correct it,"
                    f" or name another column with --columns {field}=COLUMN"
                ) from error
        raise
