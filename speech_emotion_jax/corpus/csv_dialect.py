"""Recognise how a CSV or TSV file was written: its encoding, its separator, and whether its cells are quoted.

Spanish Excel writes semicolons and Windows-1252, or UTF-16 with tabs. Many exports write TSV without quoting, where a
quote is a letter like any other. A file that can be read in two ways that give other rows is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnreadableInput

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
QUOTE = '"'
_BLOCK = 1 << 20  # bytes
# A mark at the start of a file that tells its encoding.
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ENCODING_NAMES = {"utf-16": "UTF-16", "cp1252": "Windows-1252"}
_EXCEL_HINT = re.compile(r"sep=(.)\r?\n?")  # a first line that tells Excel the separator
_LINE_END = "\r\n"
REMEDY = "); write a cell that has quotes in quotes, and each quote in it twice, or write the manifest as .jsonl"


@dataclass(frozen=True)
class CsvDialect:
    """Encoding, separator and quoting of a file.

    Attributes:
        encoding: A codec of Python.
        separator: The character between two cells.
        quoted: Whether a cell that begins with a quote ends at the next single quote. Else quotes are letters.
        skipped: Lines before the header.
        header: The names of the columns, as they stand in the file. Empty for an empty file.
        note: A sentence that says how the file is read, if it is not as its suffix says.
    """

    encoding: str
    separator: str
    quoted: bool
    skipped: int
    header: list[str]
    note: str | None

    def rows(self, lines: Iterator[str]) -> Any:
        """Return a reader of the cells of each row, which raises csv.Error for wrong quotes."""
        if self.quoted:
            return csv.reader(lines, delimiter=self.separator, strict=True)
        return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE)


def recognise(path: str, open_file: Any, separator: str, known: Collection[str]) -> CsvDialect:
    """Recognise how a file is written.

    Args:
        path: The file's path for messages.
        open_file: A function that opens the file's bytes.
        separator: The separator that the file's suffix stands for. Another one is taken if the header then has more of
            the known names.
        known: Names of columns that are looked for.

    Raises:
        UnreadableInput: The encoding is unknown, or quotes are wrong or swallow rows. The message names the line.
    """
    encoding, quotes = _scan(path, open_file)
    with open_file() as file:
        lines = io.TextIOWrapper(file, encoding, newline="")
        first, skipped = "", 0
        for first in lines:
            if hint := _EXCEL_HINT.fullmatch(first):
                separator, skipped = hint[1], skipped + 1
            elif first.strip(_LINE_END):
                break
            else:
                skipped += 1
    usual = separator
    headers = {each: next(csv.reader([first], delimiter=each), []) for each in dict.fromkeys([separator, *SEPARATORS])}

    def recognised(each: str) -> tuple[int, bool, int]:
        """Return a key; the separator with the largest one is taken."""
        found = sum(name.strip().lower() in known for name in headers[each])
        return found, each == separator, len(headers[each])

    separator = max(headers, key=recognised)
    if len(headers[separator]) == 1 and not recognised(separator)[0]:
        separator = max(headers, key=lambda each: len(headers[each]))
    remarks = []
    if separator != usual:
        remarks.append(f"is separated by {SEPARATORS.get(separator, repr(separator))}")
    if encoding in _ENCODING_NAMES:
        remarks.append(f"is encoded in {_ENCODING_NAMES[encoding]}")
    quoted = True
    if quotes:
        quoted = _is_quoted(path, open_file, encoding, separator, tsv=separator == "\t", skipped=skipped)
        if not quoted:
            remarks.append("has quotes that are part of its texts")
    note = f"{path} {', and '.join(remarks)}; it is read so" if remarks else None
    header = headers[separator] if quoted else first.strip(_LINE_END).split(separator)
    if quoted and first.count(QUOTE) % 2:  # a name with a line break in it
        with open_file() as file:
            lines = io.TextIOWrapper(file, encoding, newline="")
            for _ in range(skipped):
                next(lines)
            header = next(csv.reader(lines, delimiter=separator))
    return CsvDialect(encoding, separator, quoted, skipped, header, note)


def _scan(path: str, open_file: Any) -> tuple[str, bool]:
    """Return the encoding of a file, and whether it has quotes."""
    with open_file() as file:
        start = file.read(4)
    encoding = next((each for mark, each in _MARKS if start.startswith(mark)), "utf-8")
    try:
        quotes = _decode(open_file, encoding)
    except UnicodeError as error:
        if encoding != "utf-8":
            raise UnreadableInput(
                f"{path} begins as {_ENCODING_NAMES.get(encoding, 'UTF-8')} and goes on otherwise ({error}); write it"
                " again as UTF-8"
            ) from error
        encoding = _other_encoding(path, open_file)
        quotes = _decode(open_file, encoding)
    return encoding, quotes


def _decode(open_file: Any, encoding: str) -> bool:
    """Decode a whole file, and return whether it has quotes."""
    decoder = codecs.getincrementaldecoder(encoding)()
    quotes = False
    with open_file() as file:
        while block := file.read(_BLOCK):
            quotes |= QUOTE in decoder.decode(block)
    decoder.decode(b"", final=True)
    return quotes


def _other_encoding(path: str, open_file: Any) -> str:
    """Return the encoding of a file that is not UTF-8. Only Windows-1252 is taken, and only if no line is UTF-8."""
    wrong = utf8 = 0
    with open_file() as file:
        for number, line in enumerate(file, start=1):
            if b"\0" in line:
                raise UnreadableInput(f"{path} is neither UTF-8 nor Windows-1252 (line {number}); save it as UTF-8")
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                utf8 = utf8 or number
            except UnicodeError:
                wrong = wrong or number
            if wrong and utf8:
                raise UnreadableInput(f"line {wrong} of {path} is not UTF-8, and line {utf8} is; save it as UTF-8")
            try:
                line.decode("cp1252")
            except UnicodeError as error:
                raise UnreadableInput(
                    f"line {number} of {path} is neither UTF-8 nor Windows-1252; save it as UTF-8"
                ) from error
    return "cp1252"


@dataclass
class _Quotes:
    """Evidence on whether the quotes of a file enclose cells, if each line is a row.

    Attributes:
        width: Cells of the first line.
        ragged: The first line that has another number of cells.
        needless: Whether a cell is not one that a writer would put in quotes.
        in_header: Whether all cells of the first line are in quotes.
        apart: The first line with a blank between separator and quote.
        firsts: The first cell of each line since the last row began; None for a line without `width` cells.
    """

    width: int = 0
    ragged: int = 0
    needless: bool = False
    in_header: bool = False
    apart: int = 0
    lines: int = 0
    firsts: list[str | None] = field(default_factory=list)

    def lines_of(self, lines: Iterator[str], separator: str) -> Iterator[str]:
        """Pass lines on, and look at them."""
        gap = re.compile(f'(?:^|{re.escape(separator)}) +"[^"{re.escape(separator)}\r\n]')
        for line in lines:
            self.lines += 1
            bare = line.strip(_LINE_END)
            if bare:
                cells = bare.split(separator)
                self.width = self.width or len(cells)
                even = len(cells) == self.width
                self.ragged = self.ragged or (0 if even else self.lines)
                self.firsts.append(cells[0] if even else None)
                if QUOTE in bare:
                    marked = [cell for cell in cells if cell.startswith(QUOTE)]
                    if self.lines == 1:
                        self.in_header = len(marked) == len(cells)
                    self.needless |= not all(map(_needs_quotes, marked))
                    if gap.search(bare):
                        self.apart = self.apart or self.lines
            yield line

    def are_rows(self) -> bool:
        """Return whether the lines since the last row began look like several rows: as wide, with like first cells."""
        first = self.firsts[0] if self.firsts else None
        return len(self.firsts) > 1 and all(first and each and _alike(first, each) for each in self.firsts)


def _alike(one: str, other: str) -> bool:
    """Return whether two cells can be of one column: both numbers, or with the same suffix if the first has one."""
    if one.isdigit():
        return other.isdigit()
    return "." not in one or one.rpartition(".")[2] == other.rpartition(".")[2]


def _needs_quotes(cell: str) -> bool:
    """Return whether a cell in quotes is complete, and one that pandas, R or Excel would have put in quotes."""
    inner = cell[1:-1]
    if len(cell) < 2 or not cell.endswith(QUOTE) or QUOTE in inner.replace(2 * QUOTE, ""):
        return False
    return not inner or QUOTE in inner or "," in inner or inner != inner.strip()


def _is_quoted(path: str, open_file: Any, encoding: str, separator: str, *, tsv: bool, skipped: int) -> bool:
    """Return whether the quotes of a file hold its cells together.

    Raises:
        UnreadableInput: The quotes are wrong, or both readings are possible and give other rows.
    """
    seen, fault, width = _Quotes(), None, 0
    begin = skipped + 1  # the line on which the row begins
    with open_file() as file:
        raw = io.TextIOWrapper(file, encoding, newline="")
        for _ in range(skipped):
            next(raw)
        lines = seen.lines_of(raw, separator)
        rows = csv.reader(lines, delimiter=separator, strict=True)
        try:
            for row in rows:
                width = width or len(row)
                last = skipped + rows.line_num
                if row and len(row) != width:
                    fault = fault or f"line {begin} has {len(row)} cells, the first {width}); correct it"
                if width > 1 and not seen.in_header and seen.are_rows():
                    fault = fault or f"a quote opens on line {begin} and swallows the rows up to line {last}{REMEDY}"
                begin, seen.firsts = last + 1, []
        except csv.Error as error:
            what = "is never closed" if "unexpected end" in str(error) else "is not closed before the next separator"
            fault = fault or f"a quote opens on line {begin} and {what}{REMEDY}"
        for _ in lines:  # to see all of them
            pass
    if tsv and not seen.ragged and (fault or (seen.needless and not seen.in_header)):
        return False
    if fault is None and seen.apart:
        fault = f"line {skipped + seen.apart} has a blank between a separator and a quote); remove it"
    if fault is not None:
        raise UnreadableInput(f"{path} can't be read ({fault}")
    return True
