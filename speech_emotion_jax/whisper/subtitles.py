"""Transcripts as subtitles: SubRip (srt) and WebVTT (vtt)."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from .words import Word

LINE_WIDTH = 42  # columns, and
LINE_SECONDS = 7.0  # how long a line stays: what subtitlers hold to be readable
PAUSE_SECONDS = 1.0  # a silence that ends a line
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001
SHORTEST_MS = 1_000  # for a cue whose end is unknown or not after its start


@dataclass(frozen=True)
class Cue:
    """A text, as decoded with its leading space, and when it is said: seconds; an end of None is unknown."""

    start: float
    end: float | None
    text: str


def render_subtitles(format: str, transcript: Sequence[Cue]) -> str:
    """The transcript in `format`, "srt" or "vtt", with a newline at its end.

    Cues with text stand in the order of their starts, in milliseconds; one whose end is not after its start lasts 1 s,
    or up to the next cue where that is sooner. Raises InvalidInput for another format.
    """
    if format not in FORMATS:
        raise InvalidInput(f"subtitles have no format {format!r}; use {' or '.join(FORMATS)}")
    return FORMATS[format](transcript)


def subtitle_lines(words: Iterable[Word]) -> list[Cue]:
    """Words as cues of one line: at most 42 columns and 7 s, ended by a pause of 1 s or the end of a sentence.

    A word that alone is longer has a line of its own. Wide characters, as in Chinese, take two columns.
    """
    grouped: list[list[Word]] = []
    for word in words:
        if grouped and _fits(word, grouped[-1]):
            grouped[-1].append(word)
        else:
            grouped.append([word])
    return [Cue(line[0].start, line[-1].end, "".join(word.text for word in line)) for line in grouped]


def _fits(word: Word, line: list[Word]) -> bool:
    return (
        not line[-1].text.rstrip().endswith(SENTENCE_ENDS)
        and word.start - line[-1].end < PAUSE_SECONDS
        and word.end - line[0].start <= LINE_SECONDS
        and _columns("".join(each.text for each in [*line, word]).strip()) <= LINE_WIDTH
    )


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _srt(transcript: Sequence[Cue]) -> str:
    blocks = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_timed(transcript), start=1)
    ]
    return "\n".join(blocks) or "\n"


def _vtt(transcript: Sequence[Cue]) -> str:
    blocks = ["WEBVTT\n"]
    for start, end, text in _timed(transcript):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escaped}\n")
    return "\n".join(blocks)


def _timed(transcript: Sequence[Cue]) -> list[tuple[int, int, str]]:
    """(start, end, text) of the cues with text: milliseconds, starts in order, ends after them, no blank lines."""
    cues = []
    for cue in sorted(transcript, key=lambda cue: cue.start):
        # A blank line would end the cue.
        text = "\n".join(line.strip() for line in cue.text.splitlines() if line.strip())
        if text:
            start = max(0, round(1_000 * cue.start))
            cues.append((start, start if cue.end is None else round(1_000 * cue.end), text))
    starts = [start for start, _, _ in cues]
    timed = []
    for start, end, text in cues:
        if end <= start:
            later = bisect_right(starts, start)
            end = min([start + SHORTEST_MS, *starts[later : later + 1]])
        timed.append((start, end, text))
    return timed


def _clock(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{point}{thousandths:03}"


FORMATS: dict[str, Callable[[Sequence[Cue]], str]] = {"srt": _srt, "vtt": _vtt}
