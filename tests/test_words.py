"""Words and the times of tokens, against transformers' grouping and against plain, slow definitions."""

from collections.abc import Sequence
from itertools import pairwise
from time import thread_time

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers.models.whisper import tokenization_whisper as original

from speech_emotion_jax.whisper import words as room
from speech_emotion_jax.whisper.words import Word, group_into_words, token_times

from .support.examples import examples

# Tokens of a byte-level vocabulary: words, marks in every position, and characters cut at every byte.
MARKS = [*"\"'“¡¿([{-.。,，!！?？:：”)]}、#%&*+/;<=>@\\^_`|~…", "...", "?!", '."', "('", "--", "),", "''", ".,"]  # noqa: RUF001
TEXTS = [
    *(
        " hola",
        " el",
        "la",
        "s",
        "ción",
        " ¿",
        " ¡",
        " (",
        ' "',
        " “",
        " -",
        " ",
        "\n",
        "  ",
        " 5",
        "5",
        " €",
        "東京",
        "は",
    ),
    *MARKS,
    *(f" {mark}" for mark in MARKS),
]
BYTES = [
    b"\xe2",
    b"\x82",
    b"\xac",
    b"\xf0\x9f",
    b"\x98\x80",
    b" \xc3",
    b"\xb1",
    b"\xe6\x9d\xb1\xe4",
    b"\xba\xac",
    b"\xff",
]
VOCABULARY = [text.encode() for text in TEXTS] + BYTES

any_tokens = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30)
spaced = st.booleans()


def decode(tokens: Sequence[int]) -> str:
    return b"".join(VOCABULARY[token] for token in tokens).decode(errors="replace")


def ids(*pieces: str | bytes) -> list[int]:
    return [VOCABULARY.index(piece.encode() if isinstance(piece, str) else piece) for piece in pieces]


def seconds(tokens: Sequence[int]) -> list[tuple[float, float]]:
    return list(pairwise(float(index) for index in range(len(tokens) + 1)))


class Tokenizer:
    """What transformers' grouping asks of a tokenizer."""

    eos_token_id = len(VOCABULARY)

    def decode(self, tokens: list[int], **_: object) -> str:
        return decode(tokens)


def theirs(tokens: list[int], spaced: bool) -> list[Word]:
    language = "spanish" if spaced else "japanese"
    timings = original._collate_word_timestamps(Tokenizer(), tokens, seconds(tokens), language, False)
    return [Word(each["text"], *each["timestamp"]) for each in timings]


@settings(max_examples=examples(500))
@given(any_tokens, spaced)
@example(ids(" hola", "東京", b"\xe2", b"\x82", b"\xac", "."), True)
@example(ids(" ¿", " hola", "?", " (", " el", ")", ".", " ", " -"), True)
def test_words_are_transformers_words(tokens, spaced):
    text = decode(tokens)
    assume("\N{REPLACEMENT CHARACTER}" not in text)
    assert group_into_words(tokens, seconds(tokens), decode, spaced=spaced) == theirs(tokens, spaced)


@settings(max_examples=examples(300))
@given(any_tokens, spaced)
@example(ids(b"\xe2", b"\x82", " hola"), True)  # bytes of no character: transformers loses all that follows
def test_nothing_is_lost(tokens, spaced):
    grouped = group_into_words(tokens, seconds(tokens), decode, spaced=spaced)
    assert "".join(word.text for word in grouped) == decode(tokens)
    assert [word.start for word in grouped] == [0.0, *(word.end for word in grouped[:-1])][: len(grouped)]
    assert all(word.start < word.end for word in grouped)
    assert not grouped or grouped[-1].end == len(tokens)


def test_punctuation_goes_with_its_word():
    tokens = ids(" ¿", " hola", "s", "?", " (", "la", ")", ".", " 5", "%", " el", "...")
    grouped = group_into_words(tokens, seconds(tokens), decode, spaced=True)
    assert [word.text for word in grouped] == [" ¿ holas?", " (la).", " 5", "%", " el..."]


def test_without_spaces_every_character_is_a_word():
    tokens = ids(b"\xe6\x9d\xb1\xe4", b"\xba\xac", "は", "。", "5")
    grouped = group_into_words(tokens, seconds(tokens), decode, spaced=False)
    assert grouped == [Word("東京", 0.0, 2.0), Word("は。", 2.0, 4.0), Word("5", 4.0, 5.0)]


@given(st.integers(1, 6), st.integers(1, 12), st.sampled_from([1, 3, 5, 7, 9]), st.integers(0, 2**32 - 1))
def test_median_filter(steps, frames, width, seed):
    rows = np.random.default_rng(seed).normal(size=(steps, frames)).astype(np.float32)
    expected = rows
    if frames > width // 2:
        padded = np.pad(rows, ((0, 0), (width // 2, width // 2)), mode="reflect")
        expected = np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=1), axis=-1)
    np.testing.assert_array_equal(room._median_filter(rows, width), expected)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_the_path_is_the_cheapest(steps, frames, seed):
    cost = np.random.default_rng(seed).normal(size=(steps, frames)).astype(np.float32)
    total = np.full((steps + 1, frames + 1), np.inf)
    total[0, 0] = 0
    for step in range(steps):
        for frame in range(frames):
            around = total[step, frame], total[step, frame + 1], total[step + 1, frame]
            total[step + 1, frame + 1] = cost[step, frame] + min(around)
    entered = room._first_frames(cost).tolist()
    assert entered[0] == 0
    assert all(0 <= earlier <= later < frames for earlier, later in pairwise([*entered, frames - 1]))
    # A row is left at the frame where the next is entered, or one before: whichever is the cheaper way.
    best = {0: 0.0}  # cost of all rows before, by the frame in which the last of them was left
    for step, first in enumerate(entered):
        stop = entered[step + 1] if step + 1 < steps else frames - 1
        came = min(value for left, value in best.items() if step == 0 or left in (first - 1, first))
        leaves = {stop} if step + 1 == steps else {stop - 1, stop}
        best = {last: came + float(cost[step, first : last + 1].sum()) for last in leaves if last >= first}
    np.testing.assert_allclose(min(best.values()), total[-1, -1], atol=1e-5)


def attention_at(starts: Sequence[int], frames: int, heads: int = 4) -> np.ndarray:
    """Heads that look, some better than others, at the frames from each token's start to the next one's."""
    rng = np.random.default_rng(0)
    attention = rng.random((heads, len(starts), frames), dtype=np.float32) * 0.05
    for row, (start, stop) in enumerate(pairwise([*starts, frames])):
        attention[:, row, start:stop] += rng.random((heads, 1)) + 0.5
    return attention / attention.sum(axis=-1, keepdims=True)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=30))
def test_tokens_are_found_where_the_heads_look(lengths):
    # The median filter shifts no edge of a stretch of at least four frames.
    starts = np.cumsum([0, *(length + 6 for length in lengths)])
    times = token_times(attention_at(starts[:-1].tolist(), int(starts[-1])))
    np.testing.assert_allclose(times, 0.02 * np.stack([starts[:-2], starts[1:-1]], axis=1), atol=0.0201)


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(["noise", "flat", "one hot"]))
def test_times_do_not_run_backwards(steps, frames, seed, kind):
    rng = np.random.default_rng(seed)
    attention = np.zeros((3, steps, frames), np.float32)
    if kind == "noise":
        attention = rng.random((3, steps, frames), dtype=np.float32)
    elif kind == "one hot":
        attention[:, np.arange(steps), rng.integers(0, frames, steps)] = 1
    times = token_times(attention)
    assert times.shape == (steps - 1, 2)
    bounds = [*times[:, 0], *times[-1:, 1]]
    assert bounds == sorted(bounds)
    assert all(0 <= bound <= 0.02 * (frames - 1) for bound in bounds)
    assert not steps > 1 or times[0, 0] == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_hardly_a_token(steps):
    assert token_times(np.ones((2, steps, 1), np.float32)).tolist() == [[0.0, 0.0]] * (steps - 1)


def test_fast():
    attention = np.random.default_rng(0).random((6, 100, 1500), dtype=np.float32)
    token_times(attention)

    def measured() -> float:
        start = thread_time()
        token_times(attention)
        return thread_time() - start

    assert min(measured() for _ in range(5)) < 0.15  # 0.03 s on an idle machine
