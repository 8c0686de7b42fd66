"""Join the texts of a recording's overlapping windows.

Windows overlap so that a word at the edge of one window is whole in its neighbour. The texts of two neighbours share
some words, and are aligned where most tokens agree. The text of the first is kept up to the middle of the agreement,
and that of the second from there on. Timestamps inside an overlap are ignored, so that a segment that begins in one
window can end in the next.

Only tokens that are said at about the same time can agree, if times are known: those of the tokens, or else those of
the timestamps around them. If nothing agrees then, the text is that of the first window up to the middle of the
overlap, and that of the second from there on. A sentence that is said twice stays twice, and no other one doubles.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .words import FRAME_SECONDS, Span


@dataclass(frozen=True)
class DecodedWindow:
    """A window of a recording and its tokens. All times are in seconds.

    The next window begins at `start + duration - right - left`, where `left` is that of the next window.

    Attributes:
        start: Start of the window in the recording.
        duration: Duration of the window.
        left: Overlap with the previous window, 0 for the first window.
        right: Overlap with the next window, 0 for the last window.
        tokens: Tokens without prompt and end token. They may hold timestamps.
        times: Start and end of each token since the window's start, or empty.
    """

    start: float
    duration: float
    left: float
    right: float
    tokens: tuple[int, ...]
    times: tuple[Span, ...] = ()

    @property
    def end(self) -> float:
        """End of the window in the recording."""
        return self.start + self.duration


@dataclass(frozen=True)
class Segment:
    """Text tokens that belong together. All times are seconds in the recording.

    Attributes:
        start: Start of the segment.
        end: End of the segment.
        tokens: Text tokens, at least one.
        times: Start and end of each token, or empty.
    """

    start: float
    end: float
    tokens: tuple[int, ...]
    times: tuple[Span, ...] = ()


def stitch(windows: Iterable[DecodedWindow], *, first_timestamp: int) -> list[Segment]:
    """Join the windows of one recording.

    Without timestamp tokens there is one segment for all windows between two silent ones. The time grows linearly with
    the number of windows.

    Tokens and times equal those of transformers' `_decode_asr`, except where it is wrong:

    - Tokens agree only if they are said at about the same time. Without an agreement, each window gives the text on its
      side of the seam. `_decode_asr` aligns equal sentences that are said at different times, and writes both texts of
      an overlap if nothing agrees.

    - A window without text is silence. It neither opens nor closes a segment. Windows that don't overlap, such as those
      on its two sides, are not matched, so no text is lost if they hold the same words.
    - A segment without a closing timestamp ends at the last timestamp if no text follows it, else with its window.
    - A segment never begins after its own text. If its opening timestamp is missing or lies in an overlap, it begins at
      the last timestamp before its text, else with its window.
    - A segment never ends before it begins, and never begins before the previous one ends.
    - A timestamp that is smaller than the one before it, in the same window, counts from that one, and so do all later
      ones. transformers' `generate` writes such timestamps if it decodes the rest of a window in another pass.
      `_decode_asr` counts them from the window's start, and may take them for timestamps of the overlap.
    - Segments without text are dropped.

    Args:
        windows: The windows, in order.
        first_timestamp: Id of <|0.00|>.

    Returns:
        The segments, in order.
    """
    joined = _Stitcher()
    for window in windows:
        if any(token < first_timestamp for token in window.tokens):
            joined.add(window, first_timestamp)
    joined.close()
    return joined.segments


EXACT_SECONDS = 1.0  # two windows' times of the same token differ by less
ROUGH_SECONDS = 4.0  # the same for times that are guessed from the timestamps around a text


@dataclass
class _SegmentPart:
    """The text tokens of one window that belong to one segment, and their times in the recording.

    Attributes:
        tokens: Text tokens.
        times: Start and end of each token, or empty.
        middles: Middle of each token, guessed where `times` is empty, or empty if the window has no timestamps.
        seam: Middle of the overlap with the previous window, seconds in the recording.
    """

    tokens: list[int] = field(default_factory=list)
    times: list[Span] = field(default_factory=list)
    middles: list[float] = field(default_factory=list)
    seam: float = 0.0

    def __getitem__(self, places: slice) -> _SegmentPart:
        """Return some of the tokens."""
        return _SegmentPart(self.tokens[places], self.times[places], self.middles[places], self.seam)

    def __add__(self, later: _SegmentPart) -> _SegmentPart:
        """Append later tokens."""
        return _SegmentPart(self.tokens + later.tokens, self.times + later.times, self.middles + later.middles)


class _Stitcher:
    """Joins windows one by one. It holds the finished segments and the state of the open one."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.said_until = 0.0  # end of the last segment's text, as far as it is known
        self._reset()

    def _reset(self) -> None:
        self.parts: list[_SegmentPart] = []
        self.opened: float | None = None  # the opening timestamp, seconds
        self.text_start = 0.0  # the segment has no text before this time
        self.open_end = 0.0  # the end of the segment if no timestamp closes it
        self.window_end = 0.0  # end of the last window with text
        self.skip_next = False  # whether to ignore the second timestamp of a pair whose first one lies in an overlap

    def add(self, window: DecodedWindow, first_timestamp: int) -> None:
        """Add the next window that has text."""
        if self.parts and window.start > self.window_end - FRAME_SECONDS:
            self.close()
        steps = _steps(window, first_timestamp)
        left_steps = round(window.left / FRAME_SECONDS, 6)  # before this step the previous window's timestamps count
        deferred = _first_deferred(steps, window)
        timestamps = iter(steps)
        middles = _middles(window, steps, first_timestamp)
        seam = window.start + window.left
        continued = bool(self.parts)
        part = _SegmentPart(seam=seam)
        now = window.start  # the last timestamp, seconds in the recording
        for position, token in enumerate(window.tokens):
            if token < first_timestamp:
                if not part.tokens and not self.parts:
                    self.text_start = now
                part.tokens.append(token)
                if middles:
                    part.middles.append(middles[position])
                if window.times:
                    start, end = window.times[position]
                    part.times.append((round(start + window.start, 2), round(end + window.start, 2)))
                continue
            step = next(timestamps)
            now = round(step * FRAME_SECONDS + window.start, 2)
            if step >= deferred:
                self.skip_next = True
            elif self.skip_next or (continued and step < left_steps):
                self.skip_next = False
            elif self.opened is None:
                self.opened = now
            elif now != self.opened:
                if not part.tokens:
                    part.seam = now  # this window has no text before
                self.parts.append(part)
                self._finish(now)
                part, continued = _SegmentPart(seam=seam), False
        if part.tokens:
            self.parts.append(part)
        elif not self.parts:
            self.opened = None
        self.window_end = window.end
        self.open_end = now if window.tokens[-1] >= first_timestamp else window.end

    def close(self) -> None:
        """End the open segment without a timestamp."""
        self._finish(self.open_end)
        self._reset()

    def _finish(self, end: float) -> None:
        """End the open segment at `end`."""
        parts = self.parts
        if parts:  # what was closed before is not said again by a window that begins before its end
            parts[0] = parts[0][bisect_left(parts[0].middles, self.said_until) :]
        joined = _match(parts)
        if joined.tokens:
            self.said_until = joined.times[-1][1] if joined.times else end if joined.middles else self.said_until
            start = self.text_start if self.opened is None else min(self.opened, self.text_start)
            if self.segments:
                start = max(start, self.segments[-1].end)
            self.segments.append(Segment(start, max(start, end), tuple(joined.tokens), tuple(joined.times)))
        self.parts, self.opened = [], None


def _steps(window: DecodedWindow, first_timestamp: int) -> list[int]:
    """Return the timestamps of a window in steps of 20 ms since its start."""
    steps: list[int] = []
    origin = before = 0
    for step in (token - first_timestamp for token in window.tokens if token >= first_timestamp):
        if step < before:
            origin = steps[-1]
        steps.append(origin + step)
        before = step
    return steps


def _first_deferred(steps: list[int], window: DecodedWindow) -> int:
    """Return the first step that is left to the next window: the first in the right overlap, or else the last."""
    if not window.right or not steps:
        return sys.maxsize
    inside = (step for step in steps if step * FRAME_SECONDS >= window.duration - window.right)
    return next(inside, steps[-1])


def _match(parts: list[_SegmentPart]) -> _SegmentPart:
    """Join the parts of one segment, which come from successive windows."""
    joined, left = _SegmentPart(), _SegmentPart()
    for right in parts:
        left_cut, right_cut = _cuts(left, right)
        joined += left[:left_cut]
        left = right[right_cut:]
    return joined + left


def _cuts(left: _SegmentPart, right: _SegmentPart) -> tuple[int, int]:
    """Return how many tokens of `left` to keep, and the first token of `right` to keep."""
    left_length, right_length = len(left.tokens), len(right.tokens)
    timed = bool(left.middles and (right.middles or not right_length))
    if not left_length or not right_length:
        return (bisect_left(left.middles, right.seam), 0) if timed and right.seam else (left_length, 0)
    agreement = np.equal.outer(left.tokens, right.tokens).astype(float)
    if timed:
        tolerance = EXACT_SECONDS if left.times and right.times else ROUGH_SECONDS
        apart = np.abs(np.subtract.outer(left.middles, right.middles))
        agreement *= np.maximum(0, 1 - apart / tolerance)
    # Slide right over left. At shift 1 the first token of right lies on the last one of left. Each further shift moves
    # it one token nearer to the start of left.
    left_index, right_index = np.nonzero(agreement)
    places, length = left_length - left_index + right_index, left_length + right_length
    matches = np.bincount(places, minlength=length)[1:]
    agreed = np.bincount(places, agreement[left_index, right_index], minlength=length)[1:]
    shifts = np.arange(1, length)
    # The score is the fraction of tokens that agree. Longer overlaps get a small bonus. A single match may be chance.
    score = np.where(matches > 1, agreed / shifts + shifts / 10_000, 0)
    if not score.any():
        return (
            (bisect_left(left.middles, right.seam), bisect_left(right.middles, right.seam))
            if timed
            else (left_length, 0)
        )
    shift = int(score.argmax()) + 1
    left_span = max(0, left_length - shift) + min(left_length, left_length + right_length - shift)
    right_span = max(0, shift - left_length) + min(right_length, shift)
    return left_span // 2, right_span // 2


def _middles(window: DecodedWindow, steps: Sequence[int], first_timestamp: int) -> list[float]:
    """Return when each token of a window is said: the middle of its time in the recording, never decreasing.

    Without times of tokens, those of a text divide the time between the timestamps around it. Without timestamps the
    list is empty.
    """
    if window.times:
        middles = [window.start + (start + end) / 2 for start, end in window.times]
    elif steps:
        places = [place for place, token in enumerate(window.tokens) if token >= first_timestamp]
        seconds = [min(step * FRAME_SECONDS, window.duration) for step in steps]
        bounds = np.interp(
            np.arange(len(window.tokens)) + 0.0,
            [-1.0, *places, float(len(window.tokens))],
            [0.0, *seconds, max(window.duration, *seconds)],
        )
        middles = (window.start + bounds).tolist()
    else:
        return []
    return np.maximum.accumulate(middles).tolist()
