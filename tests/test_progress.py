"""Progress where there is no terminal: lines with a total, a rate and the time that is left."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.runtime import progress as module
from speech_emotion_jax.runtime.progress import describe_progress, progress


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="speech_emotion_jax")
    with progress("Scoring 4 clips", 4) as advance:
        for _ in range(4):
            advance(1)
    lines = [record.getMessage() for record in caplog.records]
    assert (lines[0], lines[-1], len(lines)) == ("Scoring 4 clips ...", "Scoring 4 clips: done", 5)
    assert lines[1].startswith("Scoring 4 clips: 1 of 4 (25 %), ")
    assert lines[1].endswith(" left")


def test_short_steps_have_two_lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="speech_emotion_jax")
    with progress("Compiling 2 shapes", 2) as advance:
        advance(1)
        advance(1)
    with progress("Waiting") as advance:
        advance(1)
    assert len(caplog.records) == 4


def test_a_line():
    assert describe_progress(300, 1000, 24) == "300 of 1,000 (30 %), 12.5 a second, 0:00:56 left"


@given(total=st.floats(1e-3, 1e9), fraction=st.floats(1e-6, 1.5, exclude_min=True), seconds=st.floats(1e-6, 1e6))
def test_any_amount_can_be_described(total: float, fraction: float, seconds: float):
    assert describe_progress(total * fraction, total, seconds).endswith(" left")
