"""The recordings that a user names by files and folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Names of sound files and of videos with sound. What a file holds is told by its content, once it is read.
_SOUNDS = "wav wave w64 aif aiff aifc au snd caf flac ogg oga opus mp2 mp3 m4a aac ac3 amr wma wv tta ape sph voc"
_VIDEOS = "mp4 m4v mov mkv mka webm avi 3gp"
_SUFFIXES = frozenset(f".{name}" for name in f"{_SOUNDS} {_VIDEOS}".split())


def find_recordings(paths: Sequence[str]) -> list[str]:
    """Return the recordings that paths name, in order.

    Args:
        paths: Files, and folders that are searched with all below them for names of sound files and videos.

    Returns:
        The files. Those of a folder are sorted by their path, hidden ones left out. A folder
        without any is returned itself, as what can't be read.
    """
    recordings: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            recordings.append(path)
            continue
        inside = [
            os.path.join(above, name)
            for above, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith(".")
        ]
        recordings += sorted(inside) or [path]
    return recordings
