"""When each word was said, from the decoder's attention to the audio.

Some cross-attention heads of Whisper (`alignment_heads` of its generation config) look at the audio of the token that
they are about to say. The path of greatest attention that moves forward in both, tokens and audio, gives each token its
time; tokens are then grouped into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

FRAME_SECONDS = 0.02  # an encoder frame, and a step between timestamp tokens

Span: TypeAlias = tuple[float, float]  # start and end, seconds

OPENING = "\"'“¡¿([{-"  # said with the word that follows
CLOSING = "\"'.。,，!！?？:：”)]}、"  # said with the word before  # noqa: RUF001
SEPARATING = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoding gives for bytes that are no whole character
CHARACTER_BYTES = 4  # UTF-8 needs no more, and a token has at least one


@dataclass(frozen=True)
class Word:
    """A word as decoded, with its leading space and its punctuation, and when it was said: seconds."""

    text: str
    start: float
    end: float


def token_times(
    attention: Float[np.ndarray, "heads steps frames"], *, median_width: int = 7
) -> Float[np.ndarray, "steps-1 2"]:
    """Start and end of each token, seconds since the first frame; successive tokens touch.

    Row i of `attention` is the step that predicted token i: the first row's input was the last token of the prompt. The
    last row, whose input was the last token, predicted the end. `frames` (20 ms each, at least 1) are the audio's, its
    padding cut off. `median_width` is odd.
    """
    heads, steps, frames = attention.shape
    weights = np.zeros((steps, frames), np.float32)
    for head in attention.astype(np.float32, copy=False):
        deviation = head.std(axis=0)
        weights += _median_filter((head - head.mean(axis=0)) / np.where(deviation > 0, deviation, 1), median_width)
    starts = FRAME_SECONDS * _first_frames(-weights / heads)
    return np.stack([starts[:-1], starts[1:]], axis=1)


def _median_filter(rows: Float[np.ndarray, "steps frames"], width: int) -> Float[np.ndarray, "steps frames"]:
    """The median of `width` frames around each, mirrored at the ends; rows too short to be mirrored stay unchanged."""
    frames, half = rows.shape[1], width // 2
    if frames <= half:
        return rows
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    shifted = [padded[:, shift : shift + frames] for shift in range(width)]
    # Of any half + 2 values of a window, neither the largest nor the smallest is its median: drop both, take in the
    # next, until one is left. Minima and maxima of whole arrays are several times faster than sorting each window.
    kept, waiting = shifted[: half + 2], shifted[half + 2 :]
    while len(kept) > 1:
        last = len(kept) - 1
        for i in (*range(last), *reversed(range(last - 1))):  # up with the largest, then down with the smallest
            kept[i], kept[i + 1] = np.minimum(kept[i], kept[i + 1]), np.maximum(kept[i], kept[i + 1])
        kept = kept[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return kept[0]


def _first_frames(cost: Float[np.ndarray, "steps frames"]) -> Int[np.ndarray, " steps"]:
    """Dynamic time warping: the frame at which the cheapest path from the first cell to the last enters each row.

    A path goes on by a row, by a frame or by both. Cells of an anti-diagonal depend on the two before it only, and are
    computed at once. Costs add up in float32 and equal ones go on by a frame, as in Whisper's own code.
    """
    steps, frames = cost.shape
    diagonals = steps + frames - 1
    # Row i moves i to the right, so that columns are anti-diagonals: a row's padding is one longer than the reshaped
    # row. Cells off the matrix cost infinitely much.
    padded = np.full((steps, steps + frames), np.inf, np.float32)
    padded[:, :frames] = cost
    skewed = np.ascontiguousarray(padded.ravel()[: steps * diagonals].reshape(steps, diagonals).T)

    by_both = np.empty((diagonals, steps), bool)
    by_row = np.empty((diagonals, steps), bool)
    before, last = np.full((2, steps + 1), np.inf, np.float32)  # the two diagonals before, under a row of infinities
    before[0] = 0
    for diagonal, cells in enumerate(skewed):
        both, row, frame = before[:-1], last[:-1], last[1:]
        by_both[diagonal] = both < np.minimum(row, frame)
        by_row[diagonal] = row < np.minimum(both, frame)
        best = np.where(by_both[diagonal], both, np.where(by_row[diagonal], row, frame))
        before, last = last, np.append(np.float32(np.inf), best + cells)

    entered = np.zeros(steps, int)
    step, diagonal = steps - 1, diagonals - 1
    while step > 0:
        moves_row, moves_both = by_row[diagonal, step], by_both[diagonal, step]
        if moves_row or moves_both:
            entered[step] = diagonal - step
            step -= 1
        diagonal -= 2 if moves_both else 1
    return entered


def words(
    tokens: Sequence[int], times: Sequence[Span], decode: Callable[[Sequence[int]], str], *, spaced: bool
) -> list[Word]:
    """Group text tokens into words. `times` are each token's start and end; `decode` turns tokens into text.

    A word begins at a space or at a punctuation mark; where the language is written without spaces (`spaced` false:
    Chinese, Japanese, Thai, Lao, Burmese, Cantonese) each token that completes a character is a word. Punctuation is
    then joined to the word it belongs to. All words' texts joined are the text of all tokens. Words don't overlap.
    """
    pieces = _by_characters(tokens, decode)
    if spaced:
        pieces = _by_spaces(pieces)
    timed: list[Word] = []
    for piece in _join_punctuation(pieces):
        start, end = times[piece.first][0], times[piece.stop - 1][1]
        if timed:  # times go back only where two windows were joined
            start = max(start, timed[-1].end)
        timed.append(Word(piece.text, start, max(start, end)))
    return timed


@dataclass(frozen=True)
class _Piece:
    """The text of tokens [first, stop)."""

    text: str
    first: int
    stop: int

    def __add__(self, following: _Piece) -> _Piece:
        return _Piece(self.text + following.text, self.first, following.stop)


def _by_characters(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[_Piece]:
    """The shortest runs of tokens that end where a character ends."""
    pieces: list[_Piece] = []
    first = 0
    for stop in range(1, len(tokens) + 1):
        text = decode(tokens[first:stop])
        if text.endswith(REPLACEMENT):  # a character is cut, unless these bytes are none whatever follows
            following = tokens[stop : stop + CHARACTER_BYTES - 1]
            if following and text + decode(following) != decode([*tokens[first:stop], *following]):
                continue
        pieces.append(_Piece(text, first, stop))
        first = stop
    return pieces


def _by_spaces(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces that begin with a space or are a punctuation mark begin a word; others go on with the one before."""
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and not piece.text.startswith(" ") and piece.text.strip() not in SEPARATING:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _join_punctuation(pieces: list[_Piece]) -> list[_Piece]:
    """Opening marks that stand after a space go to the next word, closing marks to the one before."""
    opened: list[_Piece] = []  # from last to first
    for piece in reversed(pieces):
        if opened and piece.text.startswith(" ") and piece.text.strip() in OPENING:
            opened[-1] = piece + opened[-1]
        else:
            opened.append(piece)
    closed: list[_Piece] = []
    for piece in reversed(opened):
        if closed and not closed[-1].text.endswith(" ") and piece.text in CLOSING:
            closed[-1] += piece
        else:
            closed.append(piece)
    return closed
