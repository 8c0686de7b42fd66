"""Times of words at pauses and seams: the right values on small inputs, and what always holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.audio.waveform import SAMPLE_RATE
from speech_emotion_jax.whisper.word_placement import loud_frames, place_words, trim_quiet
from speech_emotion_jax.whisper.words import Word


def sound(*parts: tuple[float, float]) -> np.ndarray:
    """Noise of several lengths (seconds) and levels."""
    random = np.random.default_rng(0)
    return np.concatenate(
        [random.normal(size=round(seconds * SAMPLE_RATE)) * level for seconds, level in parts]
    ).astype(np.float32)


def test_a_pause_belongs_to_no_token():
    loud = loud_frames(sound((5, 0.0005), (1, 0.1), (4, 0.0005), (1, 0.1)))
    times = [(0.0, 5.2), (5.2, 5.5), (5.5, 7.0), (7.0, 9.0), (9.0, 10.2), (10.2, 11.0)]
    trimmed = trim_quiet(times, [" Te", " es", "cribo", ".", " lo", " de"], loud)
    expected = [(4.94, 5.2), (5.2, 5.5), (5.5, 6.06), (7.0, 7.0), (9.94, 10.2), (10.2, 11.0)]
    np.testing.assert_allclose(trimmed, expected, atol=0.021)


@pytest.mark.parametrize("level", [0.0, 1e-7, 0.1])
def test_a_recording_of_one_loudness_is_not_cut(level):
    times = [(0.0, 2.0), (2.0, 3.0)]
    assert trim_quiet(times, [" a", "."], loud_frames(sound((3, level)))) == times
    assert trim_quiet([(0.0, 0.0)], [" a"], loud_frames(np.zeros(0, np.float32))) == [(0.0, 0.0)]


def words(*times: tuple[float, float]) -> list[Word]:
    return [Word(f" {number}", *each) for number, each in enumerate(times)]


def spans(segments: list[list[Word]]) -> list[list[tuple[float, float]]]:
    return [[(word.start, word.end) for word in segment] for segment in segments]


def test_a_segment_does_not_begin_with_a_long_word():
    segments = [words((0.0, 0.4), (0.4, 0.8)), words((0.8, 6.0), (6.0, 6.4), (6.4, 6.8))]
    assert spans(place_words(segments, [(0.0, 0.8), (0.8, 6.8)]))[1][0] == pytest.approx((5.2, 6.0))


def test_a_sentence_does_not_begin_with_a_long_word():
    segment = [Word(" Ya.", 0.0, 0.4), Word(" Te", 0.4, 5.0), Word(" veo", 5.0, 5.4)]
    assert spans(place_words([segment], [(0.0, 5.4)]))[0][1] == pytest.approx((4.2, 5.0))


def test_a_segment_ends_at_its_timestamp_rather_than_seconds_later():
    segment = words((0.0, 0.4), (0.4, 0.8), (0.8, 4.0))
    assert spans(place_words([segment], [(0.0, 1.4)]))[0][2] == (0.8, 1.4)


def test_good_times_stay():
    segments = [words((0.1, 0.4), (0.4, 0.9)), words((1.5, 1.9), (1.9, 2.2))]
    assert place_words(segments, [(0.0, 1.0), (1.5, 2.2)]) == segments


def test_words_of_two_windows_do_not_overlap():
    """Where windows were joined, the second's clock may be behind the first's."""
    segments = [words((0.0, 0.4), (0.4, 1.0)), words((0.7, 0.9), (0.9, 1.3))]
    assert spans(place_words(segments, [(0.0, 1.0), (0.7, 1.3)])) == [
        [(0.0, 0.4), (0.4, 0.7)],
        [(0.7, 0.9), (0.9, 1.3)],
    ]


def test_words_without_a_length_share_that_of_the_next():
    segment = words((0.0, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3, 0.9), (0.9, 0.9))
    expected = [(0.0, 0.3), (0.3, 0.45), (0.45, 0.6), (0.6, 0.75), (0.75, 0.9)]
    np.testing.assert_allclose(spans(place_words([segment], [(0.0, 0.9)]))[0], expected)


seconds = st.integers(0, 1500).map(lambda step: step / 50)


@given(st.lists(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=8), max_size=5), st.data())
def test_order_whatever_the_times(times, data):
    segments = [
        [Word(data.draw(st.sampled_from([" a", " b.", "?"])), min(each), max(each)) for each in some] for some in times
    ]
    bounds = [(min(pair), max(pair)) for pair in (data.draw(st.tuples(seconds, seconds)) for _ in segments)]
    placed = place_words(segments, bounds)
    assert [[word.text for word in segment] for segment in placed] == [
        [word.text for word in each] for each in segments
    ]
    now = 0.0
    for word in (word for segment in placed for word in segment):
        assert now <= word.start < word.end
        now = word.end
