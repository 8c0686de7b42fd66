"""Progress of long steps: a bar where stderr is a terminal, a log line where it is not. stdout is never touched."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("speech_emotion_jax")


@contextmanager
def progress(step: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a step while it runs. Yields a function to call with each amount done; without `total` the bar only pulses."""
    if not sys.stderr.isatty():
        logger.info("%s ...", step)
        yield lambda done: None
        logger.info("%s: done", step)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(step, total=total)
        yield lambda done: bar.advance(task, done)
