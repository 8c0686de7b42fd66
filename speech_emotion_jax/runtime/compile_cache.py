"""Compiled programs on disk, by JAX's own persistent cache, so that the next process compiles nothing again.

JAX has one cache a process, and so only what owns its process turns it on: the command line, and `predict_emotion`.
Pipelines leave a host program's settings alone; JAX_COMPILATION_CACHE_DIR turns the cache on for them.

A program is found again by its code, its shapes, the versions of JAX and XLA, XLA's flags, and the kind of device; of a
CPU its instruction set, too. Machines of several kinds may share a folder.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from .cache_folder import cache_folder

logger = logging.getLogger("speech_emotion_jax")

SETTINGS = {
    "jax_compilation_cache_max_size": 1 << 30,  # bytes, beyond which what was used least recently goes
    "jax_persistent_cache_min_compile_time_secs": 0,  # the small programs together take longer than a large one
}


_previous: dict[str, Any] = {}  # The settings of JAX that `keep_programs` changed, with their values before.


def programs_folder() -> str | None:
    """Where compiled programs are kept; None where JAX_ENABLE_COMPILATION_CACHE is false."""
    if not _set("jax_enable_compilation_cache"):
        return None
    return _set("jax_compilation_cache_dir") or str(cache_folder() / "compiled")


def kept_programs(folder: str) -> dict[str, int]:
    """{file: bytes} of the programs that are kept there; none of a bucket's."""
    return {path.name: path.stat().st_size for path in Path(folder).glob("*-cache")}


def keep_programs() -> bool:
    """Keep what is compiled from now on in `programs_folder`, and take from there what was compiled before.

    What the user has set of JAX's cache is left as it is. False where nothing is kept: the user has it so, or our
    folder can't be written, which a line in the log says.
    """
    folder = programs_folder()
    if folder is None or folder == _set("jax_compilation_cache_dir"):
        return folder is not None
    if not _is_writable(folder):
        return False
    jax.config.update("jax_compilation_cache_dir", folder)
    _previous.setdefault("jax_compilation_cache_dir", None)
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            _previous.setdefault(name, _set(name))
            jax.config.update(name, value)
    return True


def disable_compile_cache() -> None:
    """Undo `keep_programs`: restore the settings of JAX that it changed."""
    if _previous:
        for name, value in _previous.items():
            jax.config.update(name, value)
        _previous.clear()
        compilation_cache.reset_cache()


def _set(name: str) -> Any:
    """What JAX has for a setting, which its types don't tell."""
    return getattr(jax.config, name)


@cache
def _is_writable(folder: str) -> bool:
    """Whether JAX can make that folder, or write into it. Nothing is made yet: a command may still be refused."""
    nearest = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return True
    logger.warning(
        "%s can't be written, so that programs are compiled anew each time; give access there, or let "
        "SPEECH_EMOTION_JAX_CACHE name another folder",
        folder,
    )
    return False
