"""Progress of long steps: a bar if stderr is a terminal, log lines if it is not. Nothing is printed to stdout."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("speech_emotion_jax")


LOG_SECONDS = 10.0  # between two lines of a step where there is no terminal


class Advance(Protocol):
    """Report progress: the amount done since the last call and, for the bar, a word on the state."""

    def __call__(self, done: float, word: str = "") -> None:
        """Add `done` to the progress."""
        ...


class _LoggedProgress:
    """Log the progress of a step with a total now and then. Threads may call it together."""

    def __init__(self, step: str, total: int | float | None):
        self._step = step
        self._total = total
        self._done = 0.0
        self._started = self._logged = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, done: int | float, word: str = "") -> None:
        """Add `done` to the progress."""
        with self._lock:
            self._done += done
            now = time.monotonic()
            if self._total and 0 < self._done < self._total and now - self._logged >= LOG_SECONDS:
                self._logged = now
                logger.info("%s: %s", self._step, describe_progress(self._done, self._total, now - self._started))


def describe_progress(done: int | float, total: int | float, seconds: int | float) -> str:
    """Describe how far a step is: "300 of 1,000 (30 %), 12.5 a second, 0:00:56 left".

    Args:
        done: the amount done, more than 0.
        total: the whole amount.
        seconds: the time that it took, more than 0.
    """
    rate = done / seconds
    left = timedelta(seconds=round(max(0.0, total - done) / rate))
    return f"{done:,.0f} of {total:,.0f} ({done / total:.0%}), {rate:,.3g} a second, {left} left".replace("%)", " %)")


@contextmanager
def progress(step: str, total: int | float | None = None) -> Iterator[Advance]:
    """Show a step while it runs: a bar on a terminal, else log lines at its start, at its end and every LOG_SECONDS.

    The lines in between say how much is done of the total, the rate and the time that is left.

    Args:
        step: what is done, such as "Reading tensors".
        total: the amount of work. None: the bar pulses.

    Yields:
        A function to call with each amount done.
    """
    if _on_terminal():
        with bar(step, total) as advance:
            yield advance
    else:
        logger.info("%s ...", step)
        yield _LoggedProgress(step, total)
        logger.info("%s: done", step)


@contextmanager
def bar(step: str, total: int | float | None = None) -> Iterator[Advance]:
    """Show a step as `progress` does on a terminal, and not at all elsewhere: for steps too many to log.

    Args:
        step: what is done.
        total: the amount of work. None: the bar pulses.

    Yields:
        A function to call with each amount done.
    """
    if not _on_terminal():
        yield lambda done, word="": None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(step, total=total, word="")
        yield lambda done, word="": bars.update(task, advance=done, word=word)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None under pythonw, or if the shell has closed it
