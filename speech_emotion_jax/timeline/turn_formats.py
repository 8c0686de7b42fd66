"""Parse the files of turns: RTTM, CSV, JSON, SubRip and WebVTT.

A parser takes the content and yields turns with the place where each stands. It checks the form; `turns` checks
what the turns say together.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidInput
from .units import Turn

_RECORDING = ("recording", "file", "filename", "audio", "uri")  # names of a column or key
_LISTS = ("units", "segments", "turns", "diarization")  # the key under which a JSON file has its turns
_CLOCK = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d{1,3})?)"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|<[\d:.]+>")


class ParsedTurn(NamedTuple):
    """A turn in a file.

    Attributes:
        place: Where it stands, such as "line 3".
        recording: Name of its recording, or None if the file names none.
        turn: The turn.
    """

    place: str
    recording: str | None
    turn: Turn


def parse_rttm(content: str) -> Iterator[ParsedTurn]:
    """Yield the turns of an RTTM file: its lines of type SPEAKER. Lines of other types and comments are ignored."""
    for number, line in enumerate(content.splitlines(), start=1):
        fields, place = line.split(), f"line {number}"
        if not fields or line.lstrip().startswith(";;") or fields[0] != "SPEAKER":
            if fields and not re.fullmatch(r";;.*|[A-Z][A-Z/_-]+", fields[0]):
                raise InvalidInput(f"{place} is no line of RTTM: {line.strip()[:60]!r}")
            continue
        if len(fields) < 8:
            raise InvalidInput(f"{place} has {len(fields)} fields, and a SPEAKER of RTTM at least 8: {line.strip()!r}")
        start, duration = (_seconds(fields[index], place) for index in (3, 4))
        speaker = None if fields[7] == "<NA>" else fields[7]
        if speaker is None:
            raise InvalidInput(f"{place} names no speaker; write one in its eighth field")
        yield ParsedTurn(place, fields[1], Turn(start, round(start + duration, 6), speaker))


def parse_csv(content: str) -> Iterator[ParsedTurn]:
    """Yield the turns of a CSV file with the columns start, end or duration, and speaker, text and recording if any."""
    rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    names: list[str] | None = None
    try:
        for row in rows:
            place = f"line {rows.line_num}"
            if not row:
                continue
            if names is None:
                names = [name.strip().lower() for name in row]
                continue
            if len(row) != len(names):
                raise InvalidInput(f"{place} has {len(row)} cells, the first {len(names)}")
            yield _from_mapping(dict(zip(names, row, strict=True)), place)
    except csv.Error as error:
        raise InvalidInput(f"line {rows.line_num}: {error}") from error


def parse_json(content: str) -> Iterator[ParsedTurn]:
    """Yield the turns of a JSON file: a list of objects, or an object that has the list under a known key."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"it is no JSON ({error})") from error
    turns = document
    if isinstance(document, dict):
        turns = next((document[key] for key in _LISTS if key in document), None)
    if not isinstance(turns, list):
        raise InvalidInput(f"it has no list of turns; give a list, or an object with one under {', '.join(_LISTS)}")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise InvalidInput(f"turn {number} is no object with start and end")
        yield _from_mapping(turn, f"turn {number}")


def parse_subtitles(content: str) -> Iterator[ParsedTurn]:
    """Yield the cues of a SubRip or WebVTT file. The speaker is that of WebVTT's voice tag, `<v Ana>`."""
    lines = content.splitlines()
    index = 0
    if lines and lines[0].startswith("WEBVTT"):
        while index < len(lines) and lines[index].strip():
            index += 1
    while index < len(lines):
        block_start = index
        block = []
        while index < len(lines) and lines[index].strip():
            block.append(lines[index])
            index += 1
        index += 1
        if not block or re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0]):
            continue
        place = f"line {block_start + 1}"
        at = next((row for row, line in enumerate(block[:2]) if "-->" in line), None)
        times = None if at is None else _TIMES.fullmatch(block[at])
        if at is None or times is None:
            raise InvalidInput(f"{place} is no cue: {block[0].strip()[:60]!r}; write its times as 00:00:01,000 --> …")
        clock = times.groups()
        start, end = _clock(clock[:3]), _clock(clock[3:])
        text = " ".join(block[at + 1 :])
        voice = _VOICE.search(text)
        speaker = html.unescape(voice[1]).strip() if voice else None
        words = " ".join(html.unescape(_TAG.sub("", text)).split())
        yield ParsedTurn(place, None, Turn(start, end, speaker or None, words or None))


PARSERS = {
    ".rttm": parse_rttm,
    ".csv": parse_csv,
    ".json": parse_json,
    ".srt": parse_subtitles,
    ".vtt": parse_subtitles,
}


def _from_mapping(values: Mapping[str, Any], place: str) -> ParsedTurn:
    """Return the turn of a row or an object."""
    if "start" not in values or not ("end" in values or "duration" in values):
        raise InvalidInput(f"{place} has no {'end' if 'start' in values else 'start'}; name start and end, in seconds")
    start = _seconds(values["start"], place)
    end = _seconds(values["end"], place) if "end" in values else round(start + _seconds(values["duration"], place), 6)
    speaker = _name(values.get("speaker"), "speaker", place)
    if speaker is None and "speaker" in values and not isinstance(values["speaker"], type(None)):
        raise InvalidInput(f"{place} names no speaker; fill in the name, or leave the column out")
    recording = next((values[key] for key in _RECORDING if values.get(key)), None)
    text = values.get("text")
    if text is not None and not isinstance(text, str):
        raise InvalidInput(f"{place}: the text {text!r} is no text")
    return ParsedTurn(
        place, _name(recording, "recording", place), Turn(start, end, speaker, " ".join((text or "").split()) or None)
    )


def _name(value: object, field: str, place: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{place}: the {field} {value!r} is no name")
    return (value or "").strip() or None


def _seconds(value: object, place: str) -> float:
    """Return a finite number of seconds."""
    try:
        seconds = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidInput(f"{place}: {value!r} is no time in seconds")
    return seconds


def _clock(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds = parts
    return round(3600 * int(hours or 0) + 60 * int(minutes or 0) + float((seconds or "0").replace(",", ".")), 3)
