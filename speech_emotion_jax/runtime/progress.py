"""Progress of long steps: a bar where stderr is a terminal, a log line where it is not. stdout is never touched."""

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
    """Says that so much more is done and, on a terminal, a word on how it goes."""

    def __call__(self, done: float, word: str = "") -> None: ...


@contextmanager
def progress(step: str, total: int | float | None = None) -> Iterator[Advance]:
    """Show a step while it runs. Yields a function to call with each amount done; the bar pulses without a `total`."""
    if _on_terminal():
        with bar(step, total) as advance:
            yield advance
    else:
        logger.info("%s ...", step)
        yield lambda done, word="": None
        logger.info("%s: done", step)


@contextmanager
def bar(step: str, total: int | float | None = None) -> Iterator[Advance]:
    """The bar alone, for steps whose log lines would be too many; nothing where stderr is no terminal."""
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
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as shown:
        task = shown.add_task(step, total=total, word="")
        yield lambda done, word="": shown.update(task, advance=done, word=word)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None under pythonw, or when it was closed by the shell
