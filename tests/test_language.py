"""The language of a recording comes from where speech is."""

from collections.abc import Iterator

import pytest

from speech_emotion_jax.whisper.language import HEARD_WINDOWS, SPOKEN_WINDOWS, WindowLanguage, choose_language

HISS = WindowLanguage("nn", 0.95, 0.99)


@pytest.mark.parametrize(
    ("windows", "code"),
    [
        ([], None),
        ([HISS], "nn"),
        ([HISS, WindowLanguage("en", 0.3, 0.7)], "nn"),
        ([HISS, WindowLanguage("es", 0.8, 0.1)], "es"),
        ([WindowLanguage("pt", 0.4, 0.1), WindowLanguage("es", 0.8, 0.2), WindowLanguage("gl", 0.5, 0.0)], "es"),
        ([HISS] * (HEARD_WINDOWS - 1) + [WindowLanguage("es", 0.2, 0.1)], "es"),
    ],
    ids=["nothing", "hiss", "two noises", "hiss and speech", "the surest", "after minutes of hiss"],
)
def test_the_surest_window_with_speech(windows, code):
    assert choose_language(windows) == code


@pytest.mark.parametrize(
    ("window", "asked"),
    [(WindowLanguage("es", 0.95, 0.1), 1), (WindowLanguage("es", 0.7, 0.1), SPOKEN_WINDOWS), (HISS, HEARD_WINDOWS)],
)
def test_no_more_windows_than_needed(window, asked):
    count = 0

    def endless() -> Iterator[WindowLanguage]:
        nonlocal count
        while True:
            count += 1
            yield window

    assert choose_language(endless()) == window.code
    assert count == asked
