"""Joins what was decoded from overlapping windows of one recording.

The recording is cut into windows of up to 30 s that overlap, so that a word cut by one window's edge is whole in its
neighbour. Two neighbours thus say the same words twice: where their tokens agree best, the first is followed up to the
middle of the agreement and the second from there on. Timestamps inside an overlap are ignored, so that a segment begun
in one window ends in the next.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .words import FRAME_SECONDS, Span


@dataclass(frozen=True)
class DecodedWindow:
    """A stretch of the recording and what was decoded from it. All times are seconds.

    `left` and `right` are the overlaps with its neighbours, 0 at the recording's ends; a neighbour begins at
    `start + duration - right - left`, with its own `left`. `tokens` come without prompt and end token, and may hold
    timestamps. `times`, where asked for, has each token's start and end since the window's start.
    """

    start: float
    duration: float
    left: float
    right: float
    tokens: tuple[int, ...]
    times: tuple[Span, ...] = ()

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass(frozen=True)
class Segment:
    """Text tokens that belong together, never none, and when they were said: seconds in the recording.

    `times` has each token's start and end where the windows had them, and is empty otherwise.
    """

    start: float
    end: float
    tokens: tuple[int, ...]
    times: tuple[Span, ...] = ()


def stitch(windows: Iterable[DecodedWindow], *, first_timestamp: int) -> list[Segment]:
    """Join the windows of one recording, in their order. `first_timestamp` is the id of <|0.00|>.

    Without timestamp tokens there is one segment for each stretch of speech that no silent window divides. The work
    grows linearly with the number of windows.

    Tokens and times are those of transformers' `_decode_asr`, except where it errs:
    - A window without text counts as silence: it opens and closes nothing. Windows that don't overlap, such as those on
      its two sides, are not matched: no text is lost where they happen to say the same words.
    - A segment without a closing timestamp ends at the last timestamp if no text follows it, else with its window.
    - A segment never begins after its own text: one whose opening timestamp is missing, or fell into an overlap, begins
      at the last timestamp before its text, else with its window.
    - A segment ends no sooner than it begins, and begins no sooner than the one before ends.
    - A timestamp before its predecessor in one window begins another pass over the window's rest, as transformers'
      `generate` appends them: its clock starts at the predecessor, and all later ones are read so. There, these are
      taken for the window's start, and timestamps that come long before its end for its overlap.
    - Segments without text are dropped.
    """
    joined = _Joined()
    for window in windows:
        if any(token < first_timestamp for token in window.tokens):
            joined.add(window, first_timestamp)
    joined.close()
    return joined.segments


@dataclass
class _Part:
    """The text tokens that one window gives to a segment, and their times in the recording."""

    tokens: list[int] = field(default_factory=list)
    times: list[Span] = field(default_factory=list)


class _Joined:
    """The finished segments, and the state of the one that is open."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._reset()

    def _reset(self) -> None:
        self.parts: list[_Part] = []
        self.opened: float | None = None  # the opening timestamp
        self.said = 0.0  # no text before this
        self.until = 0.0  # where the segment ends if nothing closes it
        self.reach = 0.0  # end of the last window
        self.skip = False  # timestamps come in pairs: where the overlap takes the first, the second goes too

    def add(self, window: DecodedWindow, first_timestamp: int) -> None:
        """Take a window with text."""
        if self.parts and window.start > self.reach - FRAME_SECONDS:
            self.close()
        steps = _steps(window, first_timestamp)
        decided = round(window.left / FRAME_SECONDS, 6)  # the step up to which the window before decides
        held = _first_held(steps, window)
        timestamps = iter(steps)
        continued = bool(self.parts)
        part = _Part()
        now = window.start  # the last timestamp, seconds in the recording
        for position, token in enumerate(window.tokens):
            if token < first_timestamp:
                if not part.tokens and not self.parts:
                    self.said = now
                part.tokens.append(token)
                if window.times:
                    start, end = window.times[position]
                    part.times.append((round(start + window.start, 2), round(end + window.start, 2)))
                continue
            step = next(timestamps)
            now = round(step * FRAME_SECONDS + window.start, 2)
            if step >= held:
                self.skip = True
            elif self.skip or (continued and step < decided):
                self.skip = False
            elif self.opened is None:
                self.opened = now
            elif now != self.opened:
                self.parts.append(part)
                self._finish(now)
                part, continued = _Part(), False
        if part.tokens:
            self.parts.append(part)
        elif not self.parts:
            self.opened = None
        self.reach = window.end
        self.until = now if window.tokens[-1] >= first_timestamp else window.end

    def close(self) -> None:
        """End the open segment where no timestamp does."""
        self._finish(self.until)
        self._reset()

    def _finish(self, end: float) -> None:
        joined = _match(self.parts)
        if joined.tokens:
            start = self.said if self.opened is None else min(self.opened, self.said)
            if self.segments:
                start = max(start, self.segments[-1].end)
            self.segments.append(Segment(start, max(start, end), tuple(joined.tokens), tuple(joined.times)))
        self.parts, self.opened = [], None


def _steps(window: DecodedWindow, first_timestamp: int) -> list[int]:
    """The timestamps in steps since the window's start."""
    steps: list[int] = []
    origin = before = 0
    for step in (token - first_timestamp for token in window.tokens if token >= first_timestamp):
        if step < before:
            origin = steps[-1]
        steps.append(origin + step)
        before = step
    return steps


def _first_held(steps: list[int], window: DecodedWindow) -> int:
    """The step from which on all is left to the next window: the first in the right overlap, or else the last."""
    if not window.right or not steps:
        return sys.maxsize
    inside = (step for step in steps if step * FRAME_SECONDS >= window.duration - window.right)
    return next(inside, steps[-1])


def _match(parts: list[_Part]) -> _Part:
    """Join what successive windows give to one segment."""
    joined, left = _Part(), _Part()
    for right in parts:
        left_cut, right_cut = _cuts(left, right)
        joined.tokens += left.tokens[:left_cut]
        joined.times += left.times[:left_cut]
        left = _Part(right.tokens[right_cut:], right.times[right_cut:])
    return _Part(joined.tokens + left.tokens, joined.times + left.times)


def _cuts(left: _Part, right: _Part) -> tuple[int, int]:
    """How many tokens of `left` to keep, and from which of `right` to go on."""
    left_length, right_length = len(left.tokens), len(right.tokens)
    whole = left_length, 0
    if not left_length or not right_length:
        return whole
    same = np.equal.outer(left.tokens, right.tokens)
    if left.times and right.times:
        left_start, left_end = np.array(left.times).T[:, :, None]
        right_start, right_end = np.array(right.times).T[:, None, :]
        same &= (left_start < right_start) | ((left_start == right_start) & (left_end <= right_end))
    # Slide right over left: at shift 1 its first token lies on left's last, at further ones nearer to left's start.
    left_index, right_index = np.nonzero(same)
    matches = np.bincount(left_length - left_index + right_index, minlength=left_length + right_length)[1:]
    shifts = np.arange(1, left_length + right_length)
    # The share of agreeing tokens; a little is added for longer overlaps. One token alone is chance.
    score = np.where(matches > 1, matches / shifts + shifts / 10_000, 0)
    if not score.any():
        return whole
    shift = int(score.argmax()) + 1
    left_span = max(0, left_length - shift) + min(left_length, left_length + right_length - shift)
    right_span = max(0, shift - left_length) + min(right_length, shift)
    return left_span // 2, right_span // 2
