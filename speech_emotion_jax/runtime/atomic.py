"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ..errors import InvalidInput, SpeechEmotionError, UnreadableInput


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into that becomes `destination` at the end, or vanishes when writing fails.

    Raises InvalidInput where the destination exists and UnreadableInput where it can't be written.
    """
    taken = InvalidInput(f"{destination} exists already; name another destination or remove it")
    if destination.exists():
        raise taken
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = destination.with_name(f".{destination.name}.unfinished-{uuid4().hex[:8]}")
        staging.mkdir()  # Unlike `tempfile.mkdtemp`, with the permissions of a new folder.
    except OSError as error:
        raise UnreadableInput(f"{destination} can't be made ({error.strerror or error}); name another one") from error
    try:
        yield staging
        try:
            os.rename(staging, destination)
        except OSError as error:
            raise taken from error
    except BaseException as error:
        _remove(staging)
        if isinstance(error, OSError) and not isinstance(error, SpeechEmotionError):
            reason = error.strerror or first_line(error)
            raise UnreadableInput(
                f"{destination} can't be written ({reason}); make room or name another destination"
            ) from error
        raise


def _remove(folder: Path) -> None:
    """Remove a folder for good: when one of Orbax's writers has failed, the others may be at work for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def ask_for_room(folder: Path, size: int) -> None:
    """Raises OSError where the disk has no room for so many bytes.

    To be asked before Orbax writes, which prints a traceback for each array that it could not write.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
