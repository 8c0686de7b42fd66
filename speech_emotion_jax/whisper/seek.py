"""The sequential mode of the original decoder: the timestamps of one window tell where the next begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .stitch import Segment
from .words import FRAME_SECONDS, Span


class SequentialWindow(NamedTuple):
    """What a window says, how far to go on from its start in seconds, and the tokens of what it says as they were
    written, timestamps included: with these the original prompts the next window.
    """

    segments: list[Segment]
    used: float
    written: list[int]


def split_at_timestamps(
    tokens: Sequence[int], *, times: Sequence[Span] = (), start: float, duration: float, first_timestamp: int
) -> SequentialWindow:
    """The segments of a window that begins at `start`, and where the next one does.

    Two timestamps in a row close one segment and open the next. What follows the last such pair may be cut by the
    window's edge: it is left to the next window, which begins there. Where a single timestamp ends the window, or there
    is no pair, all of the window is used up. Segments without text are dropped. `times` are each token's, where known,
    since the window's start.
    """
    stamped = [token >= first_timestamp for token in tokens]
    pairs = [index + 1 for index, (one, two) in enumerate(pairwise(stamped)) if one and two]
    single_ending = stamped[-2:] == [False, True]

    def seconds(token: int) -> float:
        return min((token - first_timestamp) * FRAME_SECONDS, duration)

    if pairs:
        cuts = [0, *pairs, *([len(tokens)] if single_ending else [])]
        pieces = [slice(one, two) for one, two in pairwise(cuts)]
        spans = [(seconds(tokens[piece][0]), seconds(tokens[piece][-1])) for piece in pieces]
        used = duration if single_ending else seconds(tokens[pairs[-1] - 1])
    else:
        stamps = [token for token in tokens if token >= first_timestamp]
        # A lone <|0.00|> is an opening that was never closed.
        end = seconds(stamps[-1]) if stamps and stamps[-1] != first_timestamp else duration
        pieces, spans, used = [slice(len(tokens))], [(0.0, end)], duration
    segments: list[Segment] = []
    written: list[int] = []
    for piece, (begin, end) in zip(pieces, spans, strict=True):
        text = tuple(token for token in tokens[piece] if token < first_timestamp)
        timed = zip(tokens[piece], times[piece], strict=True) if times else ()
        said = tuple((start + one, start + two) for token, (one, two) in timed if token < first_timestamp)
        if text:
            segments.append(Segment(round(start + begin, 2), round(start + end, 2), text, said))
            written += tokens[piece]
    return SequentialWindow(segments, used if used > 0 else duration, written)
