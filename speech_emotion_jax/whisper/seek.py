"""Sequential decoding as in the original: the timestamps of one window tell where the next begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .stitch import Segment
from .words import FRAME_SECONDS, Span


class SequentialWindow(NamedTuple):
    """The content of a sequential window.

    Attributes:
        segments: Segments with text. Their times are seconds in the recording.
        used: Seconds from the window's start to where the next window begins.
        written: Tokens of the segments, timestamps included. The original prompts the next window with them.
    """

    segments: list[Segment]
    used: float
    written: list[int]


def split_at_timestamps(
    tokens: Sequence[int], *, times: Sequence[Span] = (), start: float, duration: float, first_timestamp: int
) -> SequentialWindow:
    """Split the tokens of a window into segments, and find where the next window begins.

    Two timestamps in a row close one segment and open the next. The window's edge may cut the text after the last such
    pair, so the next window begins at that pair. If a single timestamp ends the text, or there is no pair, the whole
    window is used. Segments without text are dropped.

    Args:
        tokens: Tokens of the window, without prompt and end token.
        times: Start and end of each token in seconds since the window's start, if known.
        start: Start of the window in seconds.
        duration: Duration of the window in seconds.
        first_timestamp: Id of <|0.00|>.

    Returns:
        The segments and the start of the next window.
    """
    is_timestamp = [token >= first_timestamp for token in tokens]
    pairs = [index + 1 for index, (one, two) in enumerate(pairwise(is_timestamp)) if one and two]
    single_ending = is_timestamp[-2:] == [False, True]

    def seconds(token: int) -> float:
        return min((token - first_timestamp) * FRAME_SECONDS, duration)

    if pairs:
        cuts = [0, *pairs, *([len(tokens)] if single_ending else [])]
        pieces = [slice(one, two) for one, two in pairwise(cuts)]
        spans = [(seconds(tokens[piece][0]), seconds(tokens[piece][-1])) for piece in pieces]
        used = duration if single_ending else seconds(tokens[pairs[-1] - 1])
    else:
        stamps = [token for token in tokens if token >= first_timestamp]
        # A single <|0.00|> opens a segment that is never closed.
        end = seconds(stamps[-1]) if stamps and stamps[-1] != first_timestamp else duration
        pieces, spans, used = [slice(len(tokens))], [(0.0, end)], duration
    segments: list[Segment] = []
    written: list[int] = []
    for piece, (begin, end) in zip(pieces, spans, strict=True):
        text = tuple(token for token in tokens[piece] if token < first_timestamp)
        timed = zip(tokens[piece], times[piece], strict=True) if times else ()
        text_times = tuple((start + one, start + two) for token, (one, two) in timed if token < first_timestamp)
        if text:
            segments.append(Segment(round(start + begin, 2), round(start + end, 2), text, text_times))
            written += tokens[piece]
    return SequentialWindow(segments, used if used > 0 else duration, written)
