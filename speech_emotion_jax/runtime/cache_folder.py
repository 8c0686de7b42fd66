"""The folder for files that this package keeps between runs."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from ..errors import InvalidInput
from .addresses import disk_path

logger = logging.getLogger("speech_emotion_jax")


def cache_folder() -> Path:
    """Return the cache folder, which need not exist.

    Returns:
        $SPEECH_EMOTION_JAX_CACHE if it is set; else $XDG_CACHE_HOME/speech_emotion_jax, which is by default
        ~/.cache/speech_emotion_jax. A user without a home has a folder of their own in the folder for temporary files.

    Raises:
        InvalidInput: The folder is an address; or the one for temporary files holds one of that name that belongs to
            somebody else.
    """
    chosen = disk_path(os.environ.get("SPEECH_EMOTION_JAX_CACHE", ""))
    folder = chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "speech_emotion_jax")
    try:
        return Path(folder).expanduser()
    except RuntimeError:  # the user has no home
        return _temporary_folder()


@cache
def _temporary_folder() -> Path:
    """Return a folder that only this user can write, because compiled programs are run from it."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"speech_emotion_jax-{owner}")
    remedy = "set SPEECH_EMOTION_JAX_CACHE to a folder of your own"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise InvalidInput(f"this user has no home, and {folder} can't be made ({error.strerror}); {remedy}") from error
    if folder.is_symlink() or (hasattr(os, "getuid") and (status.st_uid != owner or status.st_mode & 0o022)):
        raise InvalidInput(f"this user has no home, and others can write {folder}; {remedy}")
    logger.warning("this user has no home, so the cache is %s; %s to keep it", folder, remedy)
    return folder
