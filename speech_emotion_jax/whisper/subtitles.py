"""Render transcripts as subtitles in SubRip (srt) or WebVTT (vtt)."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from .words import Word

# Common limits of subtitlers: columns of a line, and seconds for which it is shown.
LINE_WIDTH = 42
LINE_SECONDS = 7.0
PAUSE_SECONDS = 1.0  # a silence that ends a line
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001
SHORTEST_MS = 1_000  # duration of a cue whose end is unknown or not after its start


@dataclass(frozen=True)
class Cue:
    """A text and when it is said.

    Attributes:
        start: Start in seconds.
        end: End in seconds, or None if it is unknown.
        text: The text as decoded, with its leading space.
    """

    start: float
    end: float | None
    text: str


def render_subtitles(format: str, transcript: Sequence[Cue]) -> str:
    """Render a transcript as subtitles.

    Cues without text are left out, and the others are sorted by their start. A cue whose end is not after its start
    lasts 1 s, or until the next cue if that starts sooner.

    Args:
        format: "srt" or "vtt".
        transcript: The cues.

    Returns:
        The content of the file, which ends with a newline.

    Raises:
        InvalidInput: The format is unknown.
    """
    if format not in FORMATS:
        raise InvalidInput(f"subtitles have no format {format!r}; use {' or '.join(FORMATS)}")
    return FORMATS[format](transcript)


def subtitle_lines(words: Iterable[Word]) -> list[Cue]:
    """Group words into cues of one line.

    A line has at most 42 columns and 7 s, and ends at a pause of 1 s or at the end of a sentence. A longer word has a
    line of its own. Wide characters, as in Chinese, take two columns.

    Args:
        words: Words in the order of their times.

    Returns:
        One cue for each line.
    """
    grouped: list[list[Word]] = []
    for word in words:
        if grouped and _fits(word, grouped[-1]):
            grouped[-1].append(word)
        else:
            grouped.append([word])
    return [Cue(line[0].start, line[-1].end, "".join(word.text for word in line)) for line in grouped]


def _fits(word: Word, line: list[Word]) -> bool:
    """Return whether a word may continue a line."""
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
        for number, (start, end, text) in enumerate(_timed_cues(transcript), start=1)
    ]
    return "\n".join(blocks) or "\n"


def _vtt(transcript: Sequence[Cue]) -> str:
    blocks = ["WEBVTT\n"]
    for start, end, text in _timed_cues(transcript):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escaped}\n")
    return "\n".join(blocks)


def _timed_cues(transcript: Sequence[Cue]) -> list[tuple[int, int, str]]:
    """Return (start, end, text) of the cues with text, in milliseconds, sorted by start, without blank lines."""
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
