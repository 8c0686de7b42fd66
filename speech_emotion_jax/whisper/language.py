"""Choose the language of a recording from those of its windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SPOKEN_WINDOWS = 5  # windows with speech to compare at most
HEARD_WINDOWS = 20  # windows to look for speech in at most: ten minutes
SURE = 0.9  # probability from which no other window is asked
NO_SPEECH = 0.6  # a window with a higher no-speech probability is probably without speech, as in the original decoder


class WindowLanguage(NamedTuple):
    """The most likely language of a window.

    Attributes:
        code: The language.
        probability: Its probability among all languages.
        no_speech: Probability that the window is without speech.
    """

    code: str
    probability: float
    no_speech: float


def choose_language(windows: Iterable[WindowLanguage]) -> str | None:
    """Return the most probable language of the windows that probably hold speech.

    If there is no such window, the other ones decide. Windows after one that is sure are not computed.

    Args:
        windows: The windows with sound, in order, computed one by one.

    Returns:
        The language, or None without a window.
    """
    others: list[WindowLanguage] = []
    spoken: list[WindowLanguage] = []
    for window in windows:
        (others if window.no_speech > NO_SPEECH else spoken).append(window)
        sure = bool(spoken) and spoken[-1].probability >= SURE
        if sure or len(spoken) == SPOKEN_WINDOWS or len(spoken) + len(others) == HEARD_WINDOWS:
            break
    return max(spoken or others, key=lambda each: each.probability).code if spoken or others else None
