"""JAX's persistent compilation cache, so that a second process loads compiled programs from disk.

JAX has one cache per process. The command line and `predict_emotion` enable it. Pipelines don't, because they may run
in a program with its own settings; set JAX_COMPILATION_CACHE_DIR to enable the cache for them.

JAX finds a program by its code and shapes, the versions of JAX and XLA, XLA's flags, the kind of device and, on a CPU,
the instruction set. So different machines may share a cache folder.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax

from .cache_folder import cache_folder
from .cache_repair import LOCK, repair_compile_cache
from .compat import reset_compile_cache

logger = logging.getLogger("speech_emotion_jax")

SETTINGS = {
    # Bytes. Above it, JAX removes the least recently used programs.
    "jax_compilation_cache_max_size": 1 << 30,
    # Small programs are cached, too: together they take longer to compile than a large one.
    "jax_persistent_cache_min_compile_time_secs": 0,
}
# For a folder that can't be written: without a size limit JAX locks nothing and notes no use, and no program takes long
# enough to be added.
READ_ONLY_SETTINGS = {
    "jax_compilation_cache_max_size": -1,
    "jax_persistent_cache_min_compile_time_secs": float("inf"),
}

_previous: dict[str, Any] = {}  # The settings of JAX that `enable_compile_cache` changed, with their values before.
_read_only: set[str] = set()  # the folders that were enabled with READ_ONLY_SETTINGS


def compile_cache_folder() -> str | None:
    """Return the folder or URL of compiled programs, or None if JAX_ENABLE_COMPILATION_CACHE is false."""
    if not _setting("jax_enable_compilation_cache"):
        return None
    return _setting("jax_compilation_cache_dir") or str(cache_folder() / "compiled")


def cached_programs(folder: str) -> dict[str, int]:
    """Return {file name: bytes} of the compiled programs in a folder on a disk. Programs on a bucket are not listed."""
    return {path.name: path.stat().st_size for path in Path(folder).glob("*-cache")}


def enable_compile_cache() -> bool:
    """Enable JAX's persistent compilation cache in `compile_cache_folder`. The user's settings of JAX take precedence.

    What a killed process has left in the folder is repaired first. From a folder that can't be written, programs are
    loaded and none are added.

    Returns:
        Whether new programs are kept. False if the user has disabled the cache, or if the folder can't be written,
        which is logged.
    """
    folder = compile_cache_folder()
    if folder is None:
        return False
    if folder == _setting("jax_compilation_cache_dir"):
        return folder not in _read_only
    access = _access(folder)
    if access is None:
        return False
    if access == "write":
        repair_compile_cache(Path(folder))
        settings = {name: value for name, value in SETTINGS.items() if name.upper() not in os.environ}
    else:
        settings = READ_ONLY_SETTINGS
        _read_only.add(folder)
    for name, value in {"jax_compilation_cache_dir": folder, **settings}.items():
        _previous.setdefault(name, _setting(name))
        jax.config.update(name, value)
    return access == "write"


def disable_compile_cache() -> None:
    """Undo `enable_compile_cache`: restore the settings of JAX that it changed."""
    if _previous:
        for name, value in _previous.items():
            jax.config.update(name, value)
        _previous.clear()
        _read_only.clear()
        reset_compile_cache()


def _setting(name: str) -> Any:
    """Return a setting of JAX by its name. jax.config declares no types for its attributes."""
    return getattr(jax.config, name)


@cache
def _access(folder: str) -> Literal["write", "read"] | None:
    """Return what JAX can do with the folder. It is not made: the command may still be refused."""
    path = Path(folder)
    nearest = next(each for each in (path, *path.parents) if each.exists())
    lock = path / LOCK
    lock_is_free = not lock.exists() or os.access(lock, os.R_OK | os.W_OK)
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) and lock_is_free:
        return "write"
    readable = path.is_dir() and os.access(path, os.R_OK | os.X_OK)
    effect = "its programs are used and others are compiled" if readable else "programs are compiled again"
    logger.warning(
        "%s can't be written, so %s in each process; give access to it, or set SPEECH_EMOTION_JAX_CACHE to another "
        "folder",
        folder,
        effect,
    )
    return "read" if readable else None
