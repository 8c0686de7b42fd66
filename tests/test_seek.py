"""Segments of a window, and where the next begins: the original decoder's cases, and what always holds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.whisper.seek import split_at_timestamps
from speech_emotion_jax.whisper.stitch import Segment

FIRST = 1_000  # <|0.00|>; text tokens lie below


def at(seconds: float) -> int:
    return FIRST + round(seconds * 50)


def segments(
    tokens: list[int], start: float = 0.0, duration: float = 30.0
) -> tuple[list[tuple[float, float, tuple[int, ...]]], float]:
    found, used, _ = split_at_timestamps(tokens, start=start, duration=duration, first_timestamp=FIRST)
    return [(segment.start, segment.end, segment.tokens) for segment in found], used


@pytest.mark.parametrize(
    ("tokens", "expected", "used"),
    [
        # A single timestamp ends the window: nothing was cut, and all of it is used up.
        ([at(0), 1, 2, at(3)], [(0.0, 3.0, (1, 2))], 30.0),
        ([at(0.5), 1, at(3), at(3), 2, at(5)], [(0.5, 3.0, (1,)), (3.0, 5.0, (2,))], 30.0),
        ([at(0), 1, at(3), at(4), 2, at(5)], [(0.0, 3.0, (1,)), (4.0, 5.0, (2,))], 30.0),
        # A pair ends it, or text follows the last pair: the next window begins at the pair.
        ([at(0), 1, at(3), at(3)], [(0.0, 3.0, (1,))], 3.0),
        ([at(0), 1, at(3), at(3), 2], [(0.0, 3.0, (1,))], 3.0),
        ([at(0), 1, at(3), at(4), 2, 3], [(0.0, 3.0, (1,))], 3.0),
        ([at(0), 1, at(3), at(3), 2, at(5), at(6), 3], [(0.0, 3.0, (1,)), (3.0, 5.0, (2,))], 5.0),
        # No pair: one segment, up to the last timestamp if it says more than the beginning.
        ([at(0), 1, 2], [(0.0, 30.0, (1, 2))], 30.0),
        ([at(1), 1, 2], [(0.0, 1.0, (1, 2))], 30.0),
        ([1, 2], [(0.0, 30.0, (1, 2))], 30.0),
        ([1, 2, at(7)], [(0.0, 7.0, (1, 2))], 30.0),
        # Nothing is said.
        ([at(0)], [], 30.0),
        ([at(0), at(0)], [], 30.0),
        ([at(0), at(30)], [], 30.0),
        ([at(0), 1, at(3), at(3), at(5)], [(0.0, 3.0, (1,))], 3.0),
        ([], [], 30.0),
    ],
    ids=str,
)
def test_windows_of_the_original(tokens: list[int], expected: list[tuple[float, float, tuple[int, ...]]], used: float):
    assert segments(tokens) == (expected, used)


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        ([at(0), 1, 2, at(3)], [at(0), 1, 2, at(3)]),
        ([at(0), 1, at(3), at(4), 2, at(5)], [at(0), 1, at(3), at(4), 2, at(5)]),
        ([at(0), 1, at(3), at(3), 2], [at(0), 1, at(3)]),
        ([at(0), 1, at(3), at(3)], [at(0), 1, at(3)]),
        ([1, 2], [1, 2]),
        ([at(0)], []),
    ],
    ids=str,
)
def test_what_the_next_window_is_prompted_with(tokens: list[int], written: list[int]):
    """Of two timestamps at the end the first, as in transformers."""
    assert split_at_timestamps(tokens, start=0.0, duration=30.0, first_timestamp=FIRST).written == written


def test_times_are_of_the_recording():
    found, used = segments([at(0.5), 1, at(3), at(3), 2], start=60.0)
    assert found == [(60.5, 63.0, (1,))]
    assert used == 3.0


def test_a_short_window_without_timestamps_lasts_as_long_as_it_is():
    assert segments([at(0), 1], start=12.5, duration=4.0) == ([(12.5, 16.5, (1,))], 4.0)


def test_tokens_keep_their_times():
    tokens = [at(0), 1, 2, at(3), at(3), 4, at(5), at(5), 6]
    times = [(index / 10, (index + 1) / 10) for index in range(len(tokens))]
    found, used, _ = split_at_timestamps(tokens, times=times, start=100.0, duration=30.0, first_timestamp=FIRST)
    assert used == 5.0
    assert [segment.tokens for segment in found] == [(1, 2), (4,)]
    for segment, places in zip(found, ((1, 2), (5,)), strict=True):
        expected = [(100 + times[place][0], 100 + times[place][1]) for place in places]
        np.testing.assert_allclose(segment.times, expected)
        assert isinstance(segment, Segment)


# Whatever the rules allow


@st.composite
def legal(draw: st.DrawFn) -> list[int]:
    """A window's tokens, as the rules let them be written: pairs between texts, none going back."""
    step = draw(st.integers(0, 50))
    tokens = [FIRST + step]
    while draw(st.booleans()):
        tokens += draw(st.lists(st.integers(0, FIRST - 1), min_size=1, max_size=5))
        if step >= 1_499 or draw(st.booleans()):
            break
        step = draw(st.integers(step + 1, 1_500))
        tokens.append(FIRST + step)
        if draw(st.booleans()):
            break
        step = draw(st.integers(step, 1_500))
        tokens.append(FIRST + step)
    return tokens


@given(legal(), st.integers(0, 10**6), st.integers(1, 30 * 50))
def test_what_always_holds(tokens: list[int], start: int, length: int):
    begin, duration = start / 50, length / 50
    found, used, written = split_at_timestamps(tokens, start=begin, duration=duration, first_timestamp=FIRST)

    assert used > 0
    for segment in found:
        assert segment.tokens
        assert all(token < FIRST for token in segment.tokens)
        assert begin - 0.01 <= segment.start <= segment.end <= begin + duration + 0.01
    for one, other in pairwise(found):
        assert one.end <= other.start

    # The next window is prompted with what was said, and with its times.
    assert [token for token in written if token < FIRST] == [token for segment in found for token in segment.tokens]
    assert written == tokens[: len(written)]

    # No text is lost: what these segments don't say comes after the last pair, at which the next window begins.
    said = [token for segment in found for token in segment.tokens]
    text = [token for token in tokens if token < FIRST]
    assert said == text[: len(said)]
    if said != text:
        last = max(place for place, pair in enumerate(pairwise(tokens)) if min(pair) >= FIRST)
        assert [token for token in tokens[last:] if token < FIRST] == text[len(said) :]
        assert used == pytest.approx(min((tokens[last] - FIRST) / 50, duration))
    elif used != pytest.approx(duration):
        assert found
        assert used == pytest.approx(found[-1].end - begin, abs=0.011)
