"""The folder for files that this package keeps between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder, which need not exist.

    Returns:
        $SPEECH_EMOTION_JAX_CACHE if it is set; else $XDG_CACHE_HOME/speech_emotion_jax, which is by default
        ~/.cache/speech_emotion_jax.
    """
    if folder := os.environ.get("SPEECH_EMOTION_JAX_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speech_emotion_jax"
