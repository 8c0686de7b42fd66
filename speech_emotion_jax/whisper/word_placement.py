"""Correct the times of words at pauses, and make every word last some time.

Dynamic time warping gives each moment to some token, pauses included, and the first and the last word of a sentence get
most of them. Two windows that were joined may contradict each other. The rules for long words are those of the original
decoder's `add_word_timestamps`; it does not look at the loudness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from ..audio import SAMPLE_RATE
from .words import CLOSING, FRAME_SECONDS, Span, Word

LONG_TOKEN = 0.5  # seconds; shorter tokens hold no pause
PADDING = 0.06  # seconds of quiet that a token keeps: weak consonants are as quiet as a pause
LEAST_CONTRAST = 12.0  # decibels between speech and pauses, below which they are not told apart
LONGEST_TYPICAL = 0.7  # seconds; bound of the typical length of a word
SENTENCE_MARKS = (".", "。", "!", "！", "?", "？")  # noqa: RUF001


def loud_frames(waveform: Float[np.ndarray, " samples"]) -> Bool[np.ndarray, " frames"]:
    """Return which frames of 20 ms are nearer to the loudness of speech than to that of the pauses, in decibels.

    The loudest and the quietest frames tell what these are. All frames are loud if they differ by less than 12 dB.
    """
    length = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = np.pad(waveform, (0, -len(waveform) % length)).reshape(-1, length)
    decibels = 20 * np.log10(np.maximum(1e-5, np.sqrt(np.square(frames).mean(axis=1))))
    if not len(decibels):
        return np.zeros(0, bool)
    pause, speech = np.percentile(decibels, (10, 99))
    if speech - pause < LEAST_CONTRAST:
        return np.ones(len(decibels), bool)
    return decibels > (pause + speech) / 2


def trim_quiet(times: Sequence[Span], texts: Sequence[str], loud: Bool[np.ndarray, " frames"]) -> list[Span]:
    """Cut the quiet from the beginning and the end of long tokens.

    Args:
        times: Start and end of each token in seconds.
        texts: Text of each token.
        loud: Which frames of 20 ms are loud.

    Returns:
        The times. Of the tokens that are quiet as a whole, closing punctuation takes no time, and others are unchanged.
    """
    trimmed = []
    for (start, end), text in zip(times, texts, strict=True):
        first = round(start / FRAME_SECONDS)
        inside = np.flatnonzero(loud[first : round(end / FRAME_SECONDS)])
        if end - start > LONG_TOKEN and len(inside):
            start = max(start, round((first + int(inside[0])) * FRAME_SECONDS - PADDING, 2))
            end = min(end, round((first + int(inside[-1]) + 1) * FRAME_SECONDS + PADDING, 2))
        elif end - start > LONG_TOKEN and text in CLOSING:
            end = start
        trimmed.append((start, end))
    return trimmed


def place_words(words: Sequence[Sequence[Word]], spans: Sequence[Span]) -> list[list[Word]]:
    """Shorten words that hold a pause, and put all words in order, each with some length.

    A word is long if it takes more than twice the median. A long word at the beginning of a segment or a sentence loses
    its beginning. The first and the last word of a segment don't exceed the segment's timestamps by half a second.

    Args:
        words: The words of each segment of a recording.
        spans: Start and end of each segment in seconds.

    Returns:
        The words of each segment. No word begins before the previous one ends.
    """
    lengths = [word.end - word.start for segment in words for word in segment if word.end > word.start]
    typical = min(LONGEST_TYPICAL, float(np.median(lengths))) if lengths else 0.0
    placed: list[Word] = []
    for segment, (opened, closed) in zip(words, spans, strict=True):
        for place, word in enumerate(segment):
            start, end = word.start, word.end
            begins = place == 0 or segment[place - 1].text.endswith(SENTENCE_MARKS)
            if begins and end - start > 2 * typical:
                start = end - 2 * typical
            if place == 0 and start + 0.5 < opened < end:
                start = max(start, min(end - typical, opened))
            if place == len(segment) - 1 and start < closed < end - 0.5:
                end = min(end, max(start + typical, closed))
            placed.append(replace(word, start=start, end=end))
    ordered = iter(_order(placed))
    return [[next(ordered) for _ in segment] for segment in words]


def _order(words: Sequence[Word]) -> list[Word]:
    """End each word before the next one begins. Words without a length share the time of a neighbour."""
    if not words:
        return []
    starts = np.maximum.accumulate([round(word.start, 3) for word in words]).tolist()
    ends = [
        min(max(start, round(word.end, 3)), following)
        for word, start, following in zip(words, starts, [*starts[1:], float("inf")], strict=False)
    ]
    places = [place for place in range(len(words)) if ends[place] - starts[place] > FRAME_SECONDS / 2]
    if not places:
        # All words are said at one time.
        ends[-1] = starts[-1] + FRAME_SECONDS
        places = [len(words) - 1]
    # Each place that has a length shares it with the words before it, and the last one with those after it, too.
    bounds = [0, *(place + 1 for place in places[:-1]), len(words)]
    ordered: list[Word] = []
    for place, (first, stop) in zip(places, pairwise(bounds), strict=True):
        edges = np.linspace(starts[place], ends[place], stop - first + 1).tolist()
        edges[1:-1] = [round(edge, 5) for edge in edges[1:-1]]
        ordered += [
            replace(word, start=start, end=end)
            for word, (start, end) in zip(words[first:stop], pairwise(edges), strict=True)
        ]
    return ordered
