"""Repair JAX's folder of compiled programs.

JAX keeps a program in NAME-cache and the time of its last use in NAME-atime, and writes neither atomically. With a size
limit it reads all times before it adds a program, so it adds none any more if a single time is missing. It never
replaces a program that it can't read. A killed process, a run without a size limit or a broken disk leave such files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import filelock

from .atomic import atomic_file

logger = logging.getLogger("speech_emotion_jax")

PROGRAM, TIME = "-cache", "-atime"
LOCK = ".lockfile"  # JAX's own
CHECKED = "checked.json"  # {file name: [size, time of change]} of the programs that were found whole
_LOCK_SECONDS = 10.0


def repair_compile_cache(folder: Path) -> None:
    """Remove damaged programs from JAX's cache, and give a time of use to those that have none.

    A program that was found whole is not read again until its file changes. Nothing is raised: a folder that can't be
    repaired stays as it is, which is logged.

    Args:
        folder: The cache, which need not exist.
    """
    if not folder.is_dir():
        return
    try:
        with filelock.FileLock(folder / LOCK, timeout=_LOCK_SECONDS):
            _repair(folder)
    except (OSError, filelock.Timeout) as error:
        logger.warning(
            "%s can't be repaired (%s), so programs may be compiled again; remove it", folder, str(error) or "locked"
        )


def _repair(folder: Path) -> None:
    checked = _read_checked(folder / CHECKED)
    whole = {}
    programs = {path.name.removesuffix(PROGRAM): path for path in folder.glob(f"*{PROGRAM}")}
    for name, path in programs.items():
        state = _state(path)
        if state is not None and (state == checked.get(path.name) or _is_whole(path)):
            whole[path.name] = state
            _repair_time(path.with_name(name + TIME), path)
        else:
            logger.debug("%s is damaged; removed", path)
            _remove(path)
            _remove(path.with_name(name + TIME))
    for path in folder.glob(f"*{TIME}"):
        if path.name.removesuffix(TIME) not in programs:
            _remove(path)
    if whole != checked:
        if (folder / CHECKED).is_dir():
            _remove(folder / CHECKED)
        with atomic_file(folder / CHECKED) as file:
            file.write(json.dumps(whole).encode())


def _read_checked(path: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(path: Path) -> list[int] | None:
    """Return the size and the time of change of a readable file, or None."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _repair_time(path: Path, program: Path) -> None:
    """Make sure that a program has a time of use, 8 bytes that this process can replace."""
    if path.is_file() and path.stat().st_size == 8 and os.access(path, os.R_OK | os.W_OK):
        return
    _remove(path)
    path.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))


def _is_whole(path: Path) -> bool:
    """Return whether JAX can decompress a program. Both formats end with a checksum or a length."""
    try:
        return len(_decompressor()(path.read_bytes())) > 0
    except Exception:  # each format has errors of its own
        return False


def _decompressor() -> Callable[[bytes], bytes]:
    """Return the function by which JAX decompresses its programs: it prefers Zstandard where that is installed."""
    for find in (_standard_zstd, _zstandard):
        try:
            return find()
        except ImportError:
            continue
    return zlib.decompress


def _standard_zstd() -> Callable[[bytes], bytes]:
    from compression import zstd  # pyright: ignore

    return zstd.decompress


def _zstandard() -> Callable[[bytes], bytes]:
    import zstandard  # pyright: ignore

    return zstandard.ZstdDecompressor().decompress


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
