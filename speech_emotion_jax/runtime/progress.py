"""Progress of long steps: a bar if stderr is a terminal, log lines if it is not. Nothing is printed to stdout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("speech_emotion_jax")


class Advance(Protocol):
    """Report progress: the amount done since the last call and, for the bar, a word on the state."""

    def __call__(self, done: float, word: str = "") -> None:
        """Add `done` to the progress."""
        ...


@contextmanager
def progress(step: str, total: int | float | None = None) -> Iterator[Advance]:
    """Show a step while it runs: a bar on a terminal, else one log line at its start and one at its end.

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
        yield lambda done, word="": None
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
