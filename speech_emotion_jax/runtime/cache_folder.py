"""Where this package keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted hub checkpoints are kept: $SPEECH_EMOTION_JAX_CACHE, else ~/.cache/speech_emotion_jax."""
    if folder := os.environ.get("SPEECH_EMOTION_JAX_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speech_emotion_jax"
