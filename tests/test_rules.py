"""What may be written next: transcripts drawn under the rules, from scores of any kind, are legal."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.whisper.rules import TokenRules

from .support.examples import examples

END, NO_SPEECH, FIRST, VOCABULARY = 30, 37, 40, 64
SPECIAL = tuple(range(END + 1, FIRST))
ROWS, LIMIT = 32, 24

allow = jax.jit(TokenRules.mask_scores, static_argnums=0)


def rules(
    suppressed: tuple[int, ...] = SPECIAL,
    begin_suppressed: tuple[int, ...] = (),
    timestamps: bool = True,
    latest_start: int | None = None,
) -> TokenRules:
    return TokenRules(END, NO_SPEECH, FIRST, suppressed, begin_suppressed, timestamps, latest_start)


def allowed(given_rules: TokenRules, written: list[int], scores: np.ndarray | None = None) -> set[int]:
    """The tokens that may follow those written; without scores all are alike, and words preferred by a little."""
    if scores is None:
        scores = np.where(np.arange(VOCABULARY) < FIRST, 5.0, 0.0).astype(np.float32)
    tokens = np.full((1, LIMIT), VOCABULARY - 1, np.int32)
    tokens[0, : len(written)] = written
    found = allow(given_rules, scores[None], tokens, np.int32(len(written)))
    return set(np.flatnonzero(np.isfinite(np.asarray(found)[0])).tolist())


def drawn(given_rules: TokenRules, seed: int, lean: float) -> list[list[int]]:
    """Greedy transcripts of random scores; the larger `lean`, the more timestamps."""
    random = np.random.default_rng(seed)
    tokens = np.full((ROWS, LIMIT), VOCABULARY - 1, np.int32)
    for count in range(LIMIT):
        scores = random.normal(0, 3, (ROWS, VOCABULARY))
        scores[:, FIRST:] += lean
        found = np.asarray(allow(given_rules, scores.astype(np.float32), tokens, np.int32(count)))
        tokens[:, count] = found.argmax(axis=1)
        assert np.isfinite(np.take_along_axis(found, tokens[:, count : count + 1], 1)).all()
    return [row[: row.index(END)] if END in row else row for row in tokens.tolist()]


def assert_legal(transcript: list[int], latest_start: int | None) -> None:
    """Timestamps: one begins, those between words come in pairs, and none goes back."""
    stamps = [token for token in transcript if token >= FIRST]
    if not transcript:
        return
    assert transcript[0] >= FIRST
    assert latest_start is None or transcript[0] <= FIRST + latest_start
    assert stamps == sorted(stamps)
    runs: list[list[int]] = []
    for before, token in pairwise([-1, *transcript]):
        if (token >= FIRST) != (before >= FIRST) or before < 0:
            runs.append([])
        runs[-1].append(token)
    for index, run in enumerate(runs):
        if run[0] < FIRST:
            continue
        assert len(run) <= 2
        if 0 < index < len(runs) - 1:
            assert len(run) == 2, "a single timestamp stands between words"
    # What is said takes time: the timestamp after words is later than the one before them.
    for index in range(2, len(runs), 2):
        assert runs[index][0] > runs[index - 2][-1]


@given(
    seed=st.integers(0, 2**32 - 1),
    lean=st.sampled_from([-9.0, -4.0, -2.0, 0.0, 3.0]),
    latest_start=st.sampled_from([None, 5]),
    suppressed=st.sampled_from([(), tuple(range(0, END, 2)), tuple(range(3, END))]),
)
@settings(max_examples=examples(25))
def test_timestamps_are_legal_whatever_the_scores(
    seed: int, lean: float, latest_start: int | None, suppressed: tuple[int, ...]
):
    never = (*suppressed, *SPECIAL)
    for transcript in drawn(rules(never, latest_start=latest_start), seed, lean):
        assert_legal(transcript, latest_start)
        assert not set(never) & set(transcript)


def test_the_drawn_transcripts_are_worth_checking():
    transcripts = [transcript for lean in (-4.0, -2.0, 0.0) for transcript in drawn(rules(), 1, lean)]
    assert sum(len(transcript) == LIMIT for transcript in transcripts) > 10
    pairs = sum(one >= FIRST and two >= FIRST for each in transcripts for one, two in pairwise(each))
    assert pairs > 20
    with pytest.raises(AssertionError):
        assert_legal([FIRST, 1, FIRST + 2, 3], None)
    with pytest.raises(AssertionError):
        assert_legal([FIRST, 1, FIRST + 2, FIRST + 1], None)
    with pytest.raises(AssertionError):
        assert_legal([FIRST, 1, FIRST], None)


@given(
    seed=st.integers(0, 2**32 - 1),
    suppressed=st.sampled_from([(), SPECIAL, tuple(range(1, END))]),
    begin_suppressed=st.sampled_from([(), (0, END), tuple(range(FIRST))]),
)
@settings(max_examples=examples(20))
def test_suppressed_tokens_are_not_written(seed: int, suppressed: tuple[int, ...], begin_suppressed: tuple[int, ...]):
    for transcript in drawn(rules(suppressed, begin_suppressed, timestamps=False), seed, 0.0):
        assert not set(suppressed) & set(transcript)
        assert (transcript[0] if transcript else END) not in begin_suppressed


def test_a_token_that_none_begins_with_may_come_later():
    never_first = rules((), (3, END), timestamps=False)
    assert {3, END} & allowed(never_first, []) == set()
    assert {3, END} < allowed(never_first, [1])


def test_without_timestamps_nothing_else_is_forbidden():
    scores = np.random.default_rng(0).normal(size=(1, VOCABULARY)).astype(np.float32)
    tokens = np.zeros((1, LIMIT), np.int32)
    found = allow(rules((), (), timestamps=False), scores, tokens, np.int32(0))
    np.testing.assert_array_equal(found, scores)


def stamps(one: int, other: int) -> set[int]:
    return set(range(FIRST + one, FIRST + other + 1))


LAST = VOCABULARY - FIRST - 1
WORDS = set(range(END))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], stamps(0, 10)),
        ([FIRST + 3], WORDS | {END}),
        ([FIRST + 3, 1], WORDS | {END} | stamps(4, LAST)),
        ([FIRST + 3, 1, 2], WORDS | {END} | stamps(4, LAST)),
        ([FIRST + 3, 1, FIRST + 9], {END} | stamps(9, LAST)),
        ([FIRST + 3, 1, FIRST + 9, FIRST + 9], WORDS | {END}),
        ([FIRST + 3, 1, FIRST + 9, FIRST + 12], WORDS | {END}),
        ([FIRST + 3, 1, FIRST + 9, FIRST + 12, 1], WORDS | {END} | stamps(13, LAST)),
        ([FIRST + 3, 1, FIRST + LAST], {END, FIRST + LAST}),
        ([FIRST + 3, 1, FIRST + LAST, FIRST + LAST, 1], WORDS | {END}),
    ],
    ids=str,
)
def test_what_may_follow(written: list[int], expected: set[int]):
    assert allowed(rules(latest_start=10), written) == expected


@pytest.mark.parametrize("latest_start", [0, 10, LAST, 1_500, None])
def test_the_first_timestamp_is_near_the_beginning(latest_start: int | None):
    last = LAST if latest_start is None else min(LAST, latest_start)
    assert allowed(rules(latest_start=latest_start), []) == stamps(0, last)


def test_timestamps_that_together_are_likelier_than_any_word_win():
    """24 timestamps of probability p each, of which those after the last may follow, against one word."""
    written, follow = [FIRST, 1], 23
    for margin, only_timestamps in ((-0.01, False), (0.01, True)):
        scores = np.full(VOCABULARY, -20.0, np.float32)
        scores[FIRST:] = 0.0
        scores[5] = np.log(follow) - margin
        assert (allowed(rules(), written, scores) <= stamps(0, LAST)) == only_timestamps


def test_what_stands_behind_the_written_tokens_does_not_matter():
    random = np.random.default_rng(0)
    scores = random.normal(size=(ROWS, VOCABULARY)).astype(np.float32)
    tokens = random.integers(0, VOCABULARY, (ROWS, LIMIT)).astype(np.int32)
    for count in (0, 1, 2, 7):
        other = np.where(np.arange(LIMIT) < count, tokens, random.integers(0, VOCABULARY, (ROWS, LIMIT)))
        one, two = (
            np.asarray(allow(rules(), scores, each.astype(np.int32), np.int32(count))) for each in (tokens, other)
        )
        np.testing.assert_array_equal(one, two)


def test_rows_are_steered_one_by_one():
    random = np.random.default_rng(1)
    scores = random.normal(size=(ROWS, VOCABULARY)).astype(np.float32)
    tokens = random.integers(0, VOCABULARY, (ROWS, LIMIT)).astype(np.int32)
    together = np.asarray(allow(rules(), scores, tokens, np.int32(5)))
    for row in range(0, ROWS, 8):
        alone = np.asarray(allow(rules(), scores[row : row + 1], tokens[row : row + 1], np.int32(5)))
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-6)
