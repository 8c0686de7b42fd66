"""Draw manifests as pandas, Excel and other tools write them, by seed.

Each has clips with a known id, text, label and cut, so that a test can tell whether rows were lost, joined or shifted.
"""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

LABELS = ("anger", "joy", "neutral")
NAMES = ("clip", "voz", "señal", "niño 1", "a,b")
WORDS = (
    "hola",
    "¿Qué tal, señor?",
    'dijo "basta" y se fue',
    '"sí"',
    "uno; dos",
    "a\tb",
    "primera línea\nsegunda, línea",
    "canción",
    "cancio\u0301n",
    '"abierta',
    "NA",
    "  blancos ",
    "l'été | café",
)
MISSING = ("", "nan", "NaN", "None", "<NA>")
HEADERS = ("plain", "blanks", "case", "mapped")
STYLES = ("csv", "semicolon", "tab", "raw tab", "raw comma", "all quoted", "json lines", "json", "array", "parquet")
ENCODINGS = ("utf-8", "utf-8-sig", "cp1252", "utf-16")


class Clip(NamedTuple):
    """What a row means."""

    id: str
    filename: str
    label: str | None
    text: str | None
    start: float | None


class Drawn(NamedTuple):
    """A manifest that was drawn."""

    path: str
    columns: dict[str, str]
    clips: list[Clip]
    how: str


def draw(seed: int, folder: Path) -> Drawn:
    """Write a manifest into a folder."""
    dice = random.Random(seed)
    style, header, missing = dice.choice(STYLES), dice.choice(HEADERS), dice.choice(MISSING)
    encoding = dice.choice(ENCODINGS)
    decimal = "," if style in ("semicolon", "tab") and dice.random() < 0.5 else "."
    clock = dice.random() < 0.2
    roots = ("", "b/", f"{folder}/", "../")
    clips = []
    for number in range(dice.randint(1, 12)):
        name = f"{dice.choice(roots)}{dice.choice(NAMES)}-{number}.wav"
        label = dice.choice((*LABELS, None))
        text = dice.choice((*WORDS, None))
        clips.append(Clip(f"c{number}", name, label, text, dice.choice((None, 0.5, 61.25, 2.0))))
    names = {"id": "id", "filename": "filename", "label": "label", "transcription": "transcription", "start": "start"}
    if header == "blanks":
        names = {field: f" {name}  " for field, name in names.items()}
    elif header == "case":
        names = {field: name.title() for field, name in names.items()}
    elif header == "mapped":
        names = {"id": "clave", "filename": "archivo", "label": "emoción", "transcription": "texto", "start": "inicio"}
    columns = {field: name.strip() for field, name in names.items()} if header in ("case", "mapped") else {}

    def number(value: float | None) -> str | None:
        if value is None:
            return None
        if clock:
            return f"0 days 00:{int(value // 60):02}:{value % 60:09.6f}"
        return str(value).replace(".", decimal)

    extra = dice.choice(("", "duration", "text", "notas"))
    rows: list[dict[str, Any]] = [
        dict(
            zip(names.values(), (clip.id, clip.filename, clip.label, clip.text, number(clip.start)), strict=True),
            **({extra: "1,5 x"} if extra else {}),
        )
        for clip in clips
    ]
    keys = list(rows[0])
    dice.shuffle(keys)
    rows = [{key: row[key] for key in keys} for row in rows]
    how = f"seed {seed}: {style}, {encoding}, {header}, {missing!r}, decimal {decimal}, clock {clock}"
    path = folder / f"m{seed}{_suffix(style, dice)}"
    if style == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif style == "array":
        path.write_text(json.dumps(rows, ensure_ascii=dice.random() < 0.5, indent=dice.choice((None, 1))), "utf-8")
    elif style.startswith("json"):
        nan = [
            {key: float("nan") if value is None and missing else value for key, value in row.items()} for row in rows
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in nan), "utf-8")
    else:
        content = _delimited(rows, style, missing, dice)
        path.write_bytes(content.encode(encoding, "replace"))
        if encoding == "cp1252":  # letters that it lacks
            lost = [clip._replace(text=_through(clip.text, encoding)) for clip in clips]
            clips = [clip._replace(filename=_through(clip.filename, encoding) or "") for clip in lost]
    return Drawn(str(path), columns, clips, how)


def _through(text: str | None, encoding: str) -> str | None:
    return None if text is None else text.encode(encoding, "replace").decode(encoding)


def _suffix(style: str, dice: random.Random) -> str:
    if style in ("tab", "raw tab"):
        return dice.choice((".tsv", ".csv"))
    return {"json lines": ".jsonl", "json": ".json", "array": ".json", "parquet": ".parquet"}.get(style, ".csv")


def _delimited(rows: list[dict[str, Any]], style: str, missing: str, dice: random.Random) -> str:
    """Return the rows as text with separators."""
    end = dice.choice(("\n", "\r\n"))
    cells = [list(rows[0]), *([missing if cell is None else cell for cell in row.values()] for row in rows)]
    if style.startswith("raw"):  # as str.join writes it; separators and line breaks can't be in a cell
        separator = "\t" if style == "raw tab" else ","
        clean = [[cell.replace(separator, " ").replace("\n", " ") for cell in row] for row in cells]
        for row, written in zip(cells, clean, strict=True):
            row[:] = written
        return "".join(separator.join(row) + end for row in clean)
    text = io.StringIO(newline="")
    delimiter = {"semicolon": ";", "tab": "\t"}.get(style, ",")
    quoting = csv.QUOTE_ALL if style == "all quoted" else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(cells)
    hint = f"sep={delimiter}{end}" if style == "semicolon" and dice.random() < 0.3 else ""
    return hint + text.getvalue()
