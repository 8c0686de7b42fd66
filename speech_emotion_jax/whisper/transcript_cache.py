"""A folder of transcripts that are found again by the content of the recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..audio import AudioSource, Cut, PackedRecording, as_cut, describe
from ..errors import UnreadableInput
from ..runtime.atomic import atomic_file
from .transcript import Transcript

REQUIRED = {"text", "language", "duration", "no_speech_probability"}  # keys of every Transcript


def cached_transcripts(
    folder: Path, source: AudioSource, settings: Mapping[str, Any], make: Callable[[], Transcript]
) -> Transcript:
    """Return the transcript of a recording from a cache, or make and cache it.

    Args:
        folder: The cache. A file in it that holds no transcript is overwritten.
        source: The recording.
        settings: All settings on which the transcript depends, as JSON values.
        make: Function that transcribes the recording. Its errors are passed on.

    Returns:
        The transcript.

    Raises:
        UnreadableInput: The recording cannot be read, or the folder cannot be written.
    """
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    key.update(_content(source))
    path = folder / f"{key.hexdigest()}.json"
    try:
        cached = json.loads(path.read_bytes())
        if isinstance(cached, dict) and cached.keys() >= REQUIRED:
            return cast(Transcript, cached)
    except (OSError, ValueError):
        pass
    transcript = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(transcript, ensure_ascii=False).encode())
    except OSError as error:
        raise UnreadableInput(
            f"the transcript can't be saved in {folder} ({error.strerror}); name another folder"
        ) from error
    return transcript


def _content(source: AudioSource) -> bytes:
    """Hash the bytes of a file, or an array and its rate. The hash of a cut includes its bounds."""
    if isinstance(source, Cut):
        channel = "" if source.channel is None else f" channel {source.channel}"
        return hashlib.sha256(_content(source.source) + f"{source.start} {source.end}{channel}".encode()).digest()
    cut = as_cut(source)
    if cut.channel is not None:
        return _content(cut)
    source = cut.source
    if isinstance(source, PackedRecording):
        return hashlib.sha256(source.read()).digest()
    if isinstance(source, Mapping):
        array = np.asarray(source.get("array"))
        described = f"{array.dtype} {array.shape} {source.get('sampling_rate')}"
        return hashlib.sha256(described.encode() + np.ascontiguousarray(array).tobytes()).digest()
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    assert isinstance(source, str | PathLike)
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UnreadableInput(f"{describe(source)} can't be read ({error.strerror}); check its path") from error
