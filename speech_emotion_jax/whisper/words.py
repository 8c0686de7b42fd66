"""Find the time of each word from the decoder's attention to the audio.

Some cross-attention heads of Whisper (`alignment_heads` of its generation config) attend to the audio of the token that
is decoded next. Dynamic time warping finds the path of greatest attention that moves forward in tokens and audio. It
gives the time of each token, and tokens are then grouped into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

FRAME_SECONDS = 0.02  # duration of an encoder frame, and step between timestamp tokens

Span: TypeAlias = tuple[float, float]  # start and end, seconds

OPENING = "\"'“¡¿([{-"  # belongs to the word that follows
CLOSING = "\"'.。,，!！?？:：”)]}、"  # belongs to the word before  # noqa: RUF001
SEPARATING = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # decodes from bytes that are not a whole character
CHARACTER_BYTES = 4  # a character has at most four bytes in UTF-8, and a token has at least one byte


@dataclass(frozen=True)
class Word:
    """A word and when it was said.

    Attributes:
        text: The word as decoded, with its leading space and its punctuation.
        start: Start in seconds.
        end: End in seconds.
    """

    text: str
    start: float
    end: float


def token_times(
    attention: Float[np.ndarray, "heads steps frames"], *, median_width: int = 7
) -> Float[np.ndarray, "steps-1 2"]:
    """Compute the start and the end of each token.

    The algorithm is that of openai/whisper's `find_alignment`.

    Args:
        attention: Weights of the alignment heads. Row i is the step that predicted token i. The input of the first row
            was the last token of the prompt, and the last row predicted the end token. Frames last 20 ms, there is at
            least one, and those of the padding are left out.
        median_width: Width of the median filter over frames, odd.

    Returns:
        Start and end of each token, in seconds since the first frame. Each token starts where the one before ends.
    """
    heads, steps, frames = attention.shape
    weights = np.zeros((steps, frames), np.float32)
    for head in attention.astype(np.float32, copy=False):
        deviation = head.std(axis=0)
        weights += _median_filter((head - head.mean(axis=0)) / np.where(deviation > 0, deviation, 1), median_width)
    starts = FRAME_SECONDS * _first_frames(-weights / heads)
    return np.stack([starts[:-1], starts[1:]], axis=1)


def _median_filter(rows: Float[np.ndarray, "steps frames"], width: int) -> Float[np.ndarray, "steps frames"]:
    """Replace each frame by the median of the `width` frames around it, mirrored at the ends.

    Rows that are too short to be mirrored stay unchanged.
    """
    frames, half = rows.shape[1], width // 2
    if frames <= half:
        return rows
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    shifted = [padded[:, shift : shift + frames] for shift in range(width)]
    # Among half + 2 values of a window, neither the largest nor the smallest is the median. Both are dropped and the
    # next value is added, until one value is left. Minima and maxima of whole arrays make this three to four times as
    # fast as `scipy.ndimage.median_filter`.
    candidates, others = shifted[: half + 2], shifted[half + 2 :]
    while len(candidates) > 1:
        last = len(candidates) - 1
        for i in (*range(last), *reversed(range(last - 1))):  # moves the largest up, then the smallest down
            one, two = candidates[i], candidates[i + 1]
            candidates[i], candidates[i + 1] = np.minimum(one, two), np.maximum(one, two)
        candidates = candidates[1:-1] + others[:1]
        others = others[1:]
    return candidates[0]


def _first_frames(cost: Float[np.ndarray, "steps frames"]) -> Int[np.ndarray, " steps"]:
    """Return the frame at which the cheapest path from the first cell to the last enters each row.

    This is dynamic time warping. A path moves by a row, by a frame or by both. The cells of an anti-diagonal depend on
    the two before it only, and are computed together. As in Whisper's own code, costs are summed in float32, and among
    equal costs the path moves by a frame.
    """
    steps, frames = cost.shape
    diagonals = steps + frames - 1
    # The padded rows are reshaped to rows that are one cell shorter, which shifts row i by i to the right. The columns
    # are then the anti-diagonals. Cells outside the matrix have infinite cost.
    padded = np.full((steps, steps + frames), np.inf, np.float32)
    padded[:, :frames] = cost
    skewed = np.ascontiguousarray(padded.ravel()[: steps * diagonals].reshape(steps, diagonals).T)

    by_both = np.empty((diagonals, steps), bool)
    by_row = np.empty((diagonals, steps), bool)
    before, last = np.full((2, steps + 1), np.inf, np.float32)  # the two diagonals before, below a row of infinities
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


def group_into_words(
    tokens: Sequence[int], times: Sequence[Span], decode: Callable[[Sequence[int]], str], *, spaced: bool
) -> list[Word]:
    """Group text tokens into words.

    A word begins at a space or at a punctuation mark. In languages without spaces between words, each token that
    completes a character is a word. Punctuation is then joined to the word it belongs to. The texts of all words
    together are the text of all tokens. `place_words` puts the words of two windows that were joined in order.

    Args:
        tokens: Text tokens, without special tokens and timestamps.
        times: Start and end of each token in seconds.
        decode: Function that returns the text of tokens.
        spaced: Whether the language puts spaces between words, which Chinese, Japanese, Thai, Lao, Burmese and
            Cantonese do not.

    Returns:
        The words, in order.
    """
    pieces = _by_characters(tokens, decode)
    if spaced:
        pieces = _by_spaces(pieces)
    timed: list[Word] = []
    for piece in _join_punctuation(pieces):
        timed.append(Word(piece.text, times[piece.first][0], times[piece.stop - 1][1]))
    return timed


@dataclass(frozen=True)
class _Piece:
    """The text of the tokens from `first` up to `stop`, `stop` excluded."""

    text: str
    first: int
    stop: int

    def __add__(self, following: _Piece) -> _Piece:
        """Join two adjacent pieces."""
        return _Piece(self.text + following.text, self.first, following.stop)


def _by_characters(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[_Piece]:
    """Group tokens into the shortest runs that end at the end of a character."""
    pieces: list[_Piece] = []
    first = 0
    for stop in range(1, len(tokens) + 1):
        text = decode(tokens[first:stop])
        if text.endswith(REPLACEMENT):  # incomplete, unless these bytes are invalid whatever follows
            following = tokens[stop : stop + CHARACTER_BYTES - 1]
            if following and text + decode(following) != decode([*tokens[first:stop], *following]):
                continue
        pieces.append(_Piece(text, first, stop))
        first = stop
    return pieces


def _by_spaces(pieces: list[_Piece]) -> list[_Piece]:
    """Join pieces to words. A piece begins a word if it begins with a space or is a punctuation mark."""
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and not piece.text.startswith(" ") and piece.text.strip() not in SEPARATING:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _join_punctuation(pieces: list[_Piece]) -> list[_Piece]:
    """Join opening marks after a space to the next word, and closing marks to the word before."""
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
