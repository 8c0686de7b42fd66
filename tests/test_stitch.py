"""Stitched windows against transformers' own merging, and what we do where that errs."""

import logging
import re
from time import thread_time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.whisper import tokenization_whisper as original

from speech_emotion_jax.whisper.stitch import DecodedWindow, Segment, stitch

from .support.examples import examples

FIRST = 1_000  # <|0.00|>; text tokens lie below


class Tokens:
    """What `_decode_asr` asks of a tokenizer. The text of a token is its number."""

    all_special_ids = ()
    eos_token_id = FIRST - 2
    language = None

    def convert_tokens_to_ids(self, token: str) -> int:
        return FIRST - 1 if token == "<|notimestamps|>" else -1

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(f" {token}" for token in tokens)

    def _strip_prompt(self, tokens: list[int], *_: int) -> list[int]:
        return tokens


@pytest.fixture(autouse=True)
def _quiet():
    """transformers warns of every segment that no timestamp ends."""
    logger = logging.getLogger("transformers.models.whisper.tokenization_whisper")
    level, logger.level = logger.level, logging.ERROR
    yield
    logger.level = level


def theirs(windows: list[DecodedWindow], timestamps: bool | str) -> list[tuple[float | None, float | None, list[int]]]:
    """(start, end, tokens) of transformers' chunks; with "word", those of single tokens."""
    outputs = []
    for window in windows:
        output: dict[str, object] = {"tokens": np.array([window.tokens], int)}
        output["stride"] = (window.duration, window.left, window.right)
        if timestamps == "word":
            output["token_timestamps"] = np.array([[end for _, end in window.times]])
        outputs.append(output)
    text, optional = original._decode_asr(
        Tokens(), outputs, return_timestamps=timestamps, return_language=False, time_precision=0.02
    )
    if not timestamps:
        return [(None, None, [int(token) for token in text.split()])] if text else []
    chunks = [(*chunk["timestamp"], [int(token) for token in chunk["text"].split()]) for chunk in optional["chunks"]]
    return [chunk for chunk in chunks if chunk[2]]


def at(seconds: float) -> int:
    return FIRST + round(seconds * 50)


LENGTH, STRIDE = 30.0, 5.0


def tiled(tokens: list[tuple[int, ...]], stride: float = STRIDE, last: float = LENGTH) -> list[DecodedWindow]:
    """Windows of 30 s as the chunked mode cuts them; the last may be shorter."""
    count = len(tokens)
    return [
        DecodedWindow(
            start=index * (LENGTH - 2 * stride),
            duration=LENGTH if index < count - 1 else last,
            left=stride if index else 0.0,
            right=stride if index < count - 1 else 0.0,
            tokens=each,
        )
        for index, each in enumerate(tokens)
    ]


@st.composite
def said(draw: st.DrawFn) -> list[list[int]]:
    """Text tokens of successive windows: neighbours share some, now and then misheard; few words, so many repeats."""
    word = st.integers(0, draw(st.sampled_from([3, 20, 900])))
    windows: list[list[int]] = []
    for _ in range(draw(st.integers(1, 6))):
        shared = windows[-1][-draw(st.integers(1, 12)) :] if windows else []
        shared = [draw(word) if draw(st.integers(0, 9)) == 0 else token for token in shared]
        windows.append(shared + draw(st.lists(word, min_size=0 if shared else 1, max_size=15)))
    return windows


class Spoken(NamedTuple):
    """A word and when it is said, in steps of 20 ms."""

    token: int
    start: int
    end: int


@st.composite
def recordings(draw: st.DrawFn, *, distinct: bool) -> list[list[Spoken]]:
    """Sentences, the same ones again and again unless words are distinct."""
    now, token = draw(st.integers(0, 100)), 0
    sentences: list[list[Spoken]] = []
    for _ in range(draw(st.integers(4, 16))):
        sentence = []
        token = token if distinct else 0
        for _ in range(draw(st.integers(2, 9)) if distinct else 7):
            duration = draw(st.integers(15, 40))
            sentence.append(Spoken(token, now, now + duration))
            now, token = now + duration, token + 1
        sentences.append(sentence)
        now += draw(st.integers(5, 80))
    return sentences


def hear(sentences: list[list[Spoken]], *, exact: bool) -> list[DecodedWindow]:
    """Return what overlapping windows hear of sentences, with the times of words if they are exact."""
    length, step, now = 30 * 50, 20 * 50, sentences[-1][-1].end
    count = 1 + max(0, -(-(now - length) // step))
    windows = []
    for number in range(count):
        first, last = number * step, min(number * step + length, now)
        tokens: list[int] = []
        times: list[tuple[float, float]] = []
        for sentence in sentences:
            words = [word for word in sentence if first <= word.start and word.end <= last]
            if not words:
                continue
            ends = words[-1] == sentence[-1]
            tokens += [FIRST + words[0].start - first, *(word.token for word in words)]
            tokens += [FIRST + words[-1].end - first] if ends else []
            stamps = [(0.0, 0.0)]
            times += stamps + [((word.start - first) / 50, (word.end - first) / 50) for word in words] + stamps * ends
        left, right = 5.0 * (number > 0), 5.0 * (number < count - 1)
        windows.append(
            DecodedWindow(first / 50, (last - first) / 50, left, right, tuple(tokens), tuple(times) if exact else ())
        )
    return windows


@given(said())
def test_text_without_timestamps(tokens):
    windows = tiled([tuple(each) for each in tokens])
    (segment,) = stitch(windows, first_timestamp=FIRST)
    assert [(None, None, list(segment.tokens))] == theirs(windows, False)
    assert (segment.start, segment.end) == (0.0, windows[-1].end)


@settings(max_examples=examples(100))
@given(recordings(distinct=False), st.booleans())
def test_a_sentence_that_is_said_again_is_neither_doubled_nor_lost(sentences, exact):
    """The tokens alone cannot tell where two windows agree; their times can."""
    windows = hear(sentences, exact=exact)
    segments = stitch(windows, first_timestamp=FIRST)
    assert [token for each in segments for token in each.tokens] == [word.token for each in sentences for word in each]
    if exact:
        times = [(word.start / 50, word.end / 50) for each in sentences for word in each]
        np.testing.assert_allclose([time for each in segments for time in each.times], times, atol=0.011)


@settings(max_examples=examples(100))
@given(recordings(distinct=True), st.booleans())
def test_segments_are_transformers_segments(sentences, exact):
    """Where words are distinct, unless two windows share a single word or none: transformers doubles these."""
    windows = hear(sentences, exact=exact)
    ours, reference = stitch(windows, first_timestamp=FIRST), theirs(windows, True)
    said = [word.token for each in sentences for word in each]
    assert [token for each in ours for token in each.tokens] == said
    assume([token for _, _, tokens in reference for token in tokens] == said)
    assert [list(segment.tokens) for segment in ours] == [tokens for _, _, tokens in reference]
    before = 0.0
    for segment, (start, end, _) in zip(ours, reference, strict=True):
        # Theirs may be missing, begin after its own text, or before its predecessor's end.
        assert before <= segment.start <= segment.end
        assert start is None or segment.start <= start or segment.start == before
        assert end is None or segment.end == max(segment.start, end)
        before = segment.end


@settings(max_examples=examples(100))
@given(recordings(distinct=True))
def test_times_of_tokens(sentences):
    # A token is a word for transformers here: each begins with a space.
    windows = hear(sentences, exact=True)
    said = [word.token for each in sentences for word in each]
    # Theirs: the end of each token, which is where the next one starts.
    reference = theirs(windows, "word")
    assume([token for _, _, tokens in reference for token in tokens] == said)
    ours = stitch(windows, first_timestamp=FIRST)
    ends = [end for segment in ours for _, end in segment.times]
    np.testing.assert_allclose(ends, [end for _, end, _ in reference], atol=0.011)


def test_windows_that_hear_different_words_share_the_overlap():
    """Each gives the words on its side of the seam, at 25 s; transformers writes both texts."""
    windows = tiled([(at(0), 1, at(20), at(20), 2, 3, 4, 5, at(30)), (at(0), 6, 7, 8, 9, at(10))])
    assert texts(*windows) == [(0, 20, (1,)), (20, 30, (2, 3, 8, 9))]
    assert theirs(windows, True)[-1][2] == [2, 3, 4, 5, 6, 7, 8, 9]


def texts(*windows: DecodedWindow) -> list[tuple[float, float, tuple[int, ...]]]:
    return [(each.start, each.end, each.tokens) for each in stitch(windows, first_timestamp=FIRST)]


def test_segments_across_a_boundary():
    first = (at(0), 1, 2, at(8), at(8), 3, 4, 5, at(27))
    second = (at(0), 4, 5, at(7), at(7), 6, at(10))
    assert texts(*tiled([first, second], last=10.0)) == [(0, 8, (1, 2)), (8, 27, (3, 4, 5)), (27, 30, (6,))]


# What whisper-base wrote of 90 s of recorded telephone prompts.
HEARD = [
    "<0.00> Usted tiene un llamar entrante<4.96><4.96> para reiniciar su volumen de habla al nivel por "
    "defecto.<9.80><9.80> Participantes en la conferencia.<12.64><12.64> Bienvenido al "
    "directorio.<15.20><15.20> Por favor, marque las tres primeras letras del nombre<19.04><19.04> de la "
    "persona que usted busca en su teclado.<22.54><22.54> Use él siete para la cu y él nueve para la z.<28.12>",
    "<0.00> que usted busca en su teclado. Use él siete para la cu y él nueve para la z. Por favor<8.64><8.64>"
    " marca el número uno para habilitar o deshabilitar el modo mudo. Número dos para bloquear.<15.52><15.52> "
    "Otres bloquear la conferencia. Número tres para expulsar al último usuario. Número cuatro o seis<23.68>",
    "<0.00> al último usuario. Número cuatro o seis para aumentar o disminuir en volumen de la "
    "conferencia.<8.00><8.00> Número siete o nueve para el volumen suyo o número ocho para salir. Entrando a "
    "la conferencia<16.00><16.00> número usted se une ra a la conferencia. Actualmente solo hay otro "
    "participante en la conferencia.<24.00>",
    "<0.00> Semente solo hay otro participante en la conferencia.<4.00><4.00> De una persona no "
    "identificada.<7.00><7.00> El número que tengo es él.<9.00><9.00> La persona que hay usted desea llamar no"
    " acepta llamaras.<15.00>",
]


def test_a_real_recording():
    vocabulary: dict[str, int] = {}
    windows = []
    for text in HEARD:
        pieces = re.findall(r"<[\d.]+>| [^ <]+", text)
        ids = [
            at(float(each[1:-1])) if each[0] == "<" else vocabulary.setdefault(each, len(vocabulary)) for each in pieces
        ]
        windows.append(tuple(ids))
    with_timestamps = tiled(windows)
    ours = [(each.start, each.end, list(each.tokens)) for each in stitch(with_timestamps, first_timestamp=FIRST)]
    assert ours == theirs(with_timestamps, True)
    words = list(vocabulary)
    assert "".join(words[token] for token in ours[-2][2]) == " El número que tengo es él."
    without = tiled([tuple(token for token in window if token < FIRST) for window in windows])
    (segment,) = stitch(without, first_timestamp=FIRST)
    assert list(segment.tokens) == theirs(without, False)[0][2]


def test_nothing_said():
    assert texts() == []
    assert texts(*tiled([(), (at(0), at(30)), ()])) == []


def test_a_silent_window_divides():
    """The same words before and after are no overlap; transformers drops one of each pair."""
    windows = tiled([(1, 2, 3, 4), (), (3, 4, 5, 6)])
    assert texts(*windows) == [(0, 30, (1, 2, 3, 4)), (40, 70, (3, 4, 5, 6))]
    assert theirs(windows, False)[0][2] == [1, 2, 3, 4, 5, 6]


def test_windows_that_only_touch_are_not_matched():
    assert texts(*tiled([(1, 2, 3), (2, 3, 4)], stride=0.0)) == [(0, 30, (1, 2, 3)), (30, 60, (2, 3, 4))]


@pytest.mark.parametrize("silent", [(), (at(0), at(12)), (at(0), at(30))])
def test_a_silent_window_closes_the_segment_before(silent):
    windows = tiled([(at(0), 1, 2, at(27.5)), silent, silent, (at(1), 3, at(4))])
    assert texts(*windows) == [(0, 27.5, (1, 2)), (61, 64, (3,))]


def test_a_segment_without_an_end_ends_with_its_window():
    assert texts(*tiled([(at(1), 1, 2, 3)], last=12.5)) == [(1, 12.5, (1, 2, 3))]
    assert texts(*tiled([(at(1), 1, at(4), 2, 3)], last=12.5)) == [(1, 4, (1,)), (4, 12.5, (2, 3))]


def test_a_segment_begins_with_its_text():
    """One speaks on over the edge of two windows; transformers lets the segment begin at 26 s."""
    windows = tiled([(at(1), 1, 2, 3, 4), (at(0), 3, 4, 5, at(6), at(6), 6, at(9))])
    assert texts(*windows) == [(1, 29, (1, 2, 3, 4, 5, 6))]
    assert theirs(windows, True) == [(26, 29, [1, 2, 3, 4, 5, 6])]


def test_a_second_pass_over_a_window():
    """transformers' `generate` goes on after the last timestamp, with a clock that starts there."""
    windows = tiled(
        [(at(0), 1, at(8), at(8), 2, 3, at(28), at(28), at(0), 4, at(1)), (at(0), 3, at(7), at(7), 5, at(9))]
    )
    assert texts(*windows) == [(0, 8, (1,)), (8, 27, (2, 3)), (27, 29, (5,))]
    assert theirs(windows, True) == [(0, 27, [1, 2, 3, 4, 3]), (27, 29, [5])]


@given(st.lists(st.lists(st.integers(0, 5) | st.integers(FIRST, FIRST + 1500), max_size=12), max_size=5), st.data())
def test_order_whatever_the_windows(tokens, data):
    """Timestamps in disorder, windows in disorder: still no segment is empty, negative or before its predecessor."""
    seconds = st.floats(0, 100)
    windows = [
        DecodedWindow(
            data.draw(seconds), data.draw(st.floats(0, 30)), data.draw(seconds), data.draw(seconds), tuple(each)
        )
        for each in tokens
    ]
    before = 0.0
    for segment in stitch(windows, first_timestamp=FIRST):
        assert segment.tokens
        assert before <= segment.start <= segment.end
        before = segment.end


@pytest.mark.slow
def test_two_hours():
    """Work grows with the number of windows, and not with its square."""
    rng = np.random.default_rng(0)

    def seconds(windows: int) -> float:
        spoken = rng.integers(0, 900, 50 * windows + 50).tolist()
        recording = tiled([tuple(spoken[50 * index : 50 * index + 75]) for index in range(windows)])
        start = thread_time()
        (segment,) = stitch(recording, first_timestamp=FIRST)
        assert list(segment.tokens) == spoken[: 50 * (windows - 1) + 75]
        return thread_time() - start

    seconds(4)
    assert seconds(360) < 2
    assert isinstance(stitch(iter(tiled([(1,)])), first_timestamp=FIRST)[0], Segment)
