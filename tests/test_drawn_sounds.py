"""Drawn sound files: each is read to the decoder's own samples, or refused in one sentence."""

import warnings
from collections import Counter

import numpy as np
import pytest

from speech_emotion_jax.audio import load
from speech_emotion_jax.errors import SpeechEmotionError

from .support.drawn_sounds import draw_sound


def read(content: bytes) -> tuple[np.ndarray | None, str]:
    """The samples, or None and the sentence that refuses the file."""
    try:
        return load(content), ""
    except SpeechEmotionError as error:
        return None, str(error)


def read_or_refuse(seeds: range) -> Counter[str]:
    """Count the files that were read and those that were refused."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        drawn = draw_sound(seed)
        if drawn is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if drawn.expected is None else "error", UserWarning)
            loaded, refusal = read(drawn.content)
        if loaded is None:
            assert drawn.expected is None, f"{drawn.name}: {refusal}"
            assert "\n" not in refusal, drawn.name
            counts["damaged and refused"] += 1
            continue
        assert np.isfinite(loaded).all(), drawn.name
        counts["damaged and read" if drawn.expected is None else "read"] += 1
        if drawn.expected is not None:
            array, rate = drawn.expected
            expected = load({"array": array, "sampling_rate": rate})
            np.testing.assert_allclose(loaded, expected, atol=1e-6, err_msg=drawn.name)
    return counts


def test_sixty_drawn_sounds():
    counts = read_or_refuse(range(60))
    assert counts["read"] > 15
    assert counts["damaged and refused"] > 5


@pytest.mark.slow
def test_two_thousand_drawn_sounds():
    counts = read_or_refuse(range(1_000, 3_000))
    print(dict(counts))
    assert counts["read"] > 600
