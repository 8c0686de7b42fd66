"""Files and folders that are complete or absent, whenever a process is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import InvalidInput, SpeechEmotionError, UnreadableInput
from .addresses import disk_path

PARTIAL = ".partial-"  # begins the name of a file that is being written


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the block ends without an error.

    The content is written beside `path`, flushed to the disk and renamed, so readers see the old file or the new one.
    If the block raises, `path` stays as it was. A killed process leaves a file whose name begins with PARTIAL.

    Raises:
        InvalidInput: if `path` is an address.
        OSError: if the file can't be written.
    """
    path = disk_path(path)
    partial = Path(path).with_name(f"{PARTIAL}{uuid.uuid4()}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(destination: Path) -> Iterator[Path]:
    """Make a folder that becomes `destination` when the block ends without an error, and is removed otherwise.

    Args:
        destination: a path that does not exist. Its parents are made.

    Yields:
        The folder to write into, beside `destination`.

    Raises:
        InvalidInput: if the destination exists, or is an address.
        UnreadableInput: if it can't be written.
    """
    disk_path(destination)
    exists = InvalidInput(f"{destination} exists already; name another destination or remove it")
    if destination.exists():
        raise exists
    staging = destination.with_name(f".{destination.name}.unfinished-{uuid.uuid4().hex}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise UnreadableInput(f"{destination} can't be made ({error.strerror or error}); name another one") from error
    try:
        yield staging
        try:
            os.rename(staging, destination)
        except OSError as error:
            raise exists from error
    except BaseException as error:
        _remove(staging)
        if isinstance(error, OSError) and not isinstance(error, SpeechEmotionError):
            reason = error.strerror or first_line(error)
            raise UnreadableInput(
                f"{destination} can't be written ({reason}); make room or name another destination"
            ) from error
        raise


def _remove(folder: Path) -> None:
    """Remove a folder, for up to a second: if one of Orbax's writers failed, the others may still write into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def check_disk_space(folder: Path, size: int) -> None:
    """Check that the disk of `folder` has room for `size` bytes.

    Call it before Orbax writes, because Orbax prints a traceback for each array that it can't write.

    Raises:
        OSError: if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
