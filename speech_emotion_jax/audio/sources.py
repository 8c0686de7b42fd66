"""The forms in which a recording may be given, and its name in messages."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..errors import InvalidInput, UnreadableInput
from .packed import PackedRecording

PASS = 'pass a path, bytes or {"array": ..., "sampling_rate": ...}'

# Seconds by which a cut may end after its recording. Times in tables are rounded, and encoders change the length.
CUT_TOLERANCE = 0.1

UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile reports for a FLAC file that states no length


@runtime_checkable
class BinaryFile(Protocol):
    """An open file or BytesIO."""

    def read(self, size: int = -1, /) -> Any:
        """Read bytes."""
        ...


@runtime_checkable
class AudioItem(Protocol):
    """A sound of the library datasets: "array" and "sampling_rate", or "bytes" and "path"."""

    def __getitem__(self, key: str, /) -> Any:
        """Return the value of a key."""
        ...


Recording = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Mapping[str, Any]
    | PackedRecording
    | BinaryFile
    | AudioItem
)


class Cut(NamedTuple):
    """A part of a recording.

    Its samples equal those of `librosa.load(path, offset=start, duration=end - start)`: the part is resampled alone.

    Attributes:
        source: The whole recording.
        start: Start of the part, in seconds.
        end: End of the part, in seconds, or None for the end of the recording.
        channel: Number of the channel to take, from 0, or None for the mean of all.
    """

    source: Recording
    start: float = 0
    end: float | None = None
    channel: int | None = None

    def frames(self, rate: int) -> tuple[int, int]:
        """Return the cut's first frame and the one after its last.

        The start and the length are each rounded down, as librosa does. Two adjacent cuts may therefore lose one frame
        at their border.

        Args:
            rate: Frames per second.

        Returns:
            The first frame and the one after the last. The latter is a huge number if the cut has no end.
        """
        first = int(self.start * rate)
        return first, UNKNOWN_FRAMES if self.end is None else first + int((self.end - self.start) * rate)

    def check(self, name: str) -> None:
        """Raise InvalidInput unless 0 <= start < end and the channel is a number from 0."""
        for seconds in (self.start, math.inf if self.end is None else self.end):
            if not isinstance(seconds, int | float | np.integer | np.floating) or isinstance(seconds, bool):
                raise InvalidInput(
                    f"{name}: {seconds!r} is not a number; give the start and the end of a cut in seconds"
                )
        if not 0 <= self.start < (math.inf if self.end is None else self.end) or self.end == math.inf:
            raise InvalidInput(f"{name} is not a valid cut; give a start of at least 0 s and a later end")
        channel = self.channel
        if channel is not None and (
            not isinstance(channel, int | np.integer) or isinstance(channel, bool) or channel < 0
        ):
            raise InvalidInput(f"{name}: {channel!r} is not a channel; give a whole number, 0 for the first one")

    def check_within(self, frames: int, rate: int, name: str) -> None:
        """Raise InvalidInput if the cut starts or ends after a recording of `frames` frames."""
        first, _ = self.frames(rate)
        beyond = self.end is not None and self.end > frames / rate + CUT_TOLERANCE
        if beyond or (first and first >= frames):
            raise InvalidInput(
                f"{name} {'ends' if first < frames else 'starts'} after the end of the recording, which is "
                f"{frames / rate:.3f} s long; correct its start and end"
            )


AudioSource = Recording | Cut


def as_cut(source: object) -> Cut:
    """Return a recording in one form, whatever form it was given in.

    Args:
        source: A path; the bytes of a file; an open binary file, which is read from its start; a `PackedRecording`; a
            mapping, or another object with `__getitem__`, that has "array" and "sampling_rate", "bytes" or "path", and
            optionally "channel"; or a `Cut` of any of these. Arrays may be lists or those of JAX and PyTorch.

    Returns:
        A cut whose source is a path, bytes, {"array": ndarray, "sampling_rate": hertz} or a `PackedRecording`.

    Raises:
        InvalidInput: The source has none of these forms.
        UnreadableInput: The open file cannot be read.
    """
    if isinstance(source, Cut):
        if isinstance(source.source, Cut):
            raise InvalidInput(f"{describe(source)} is a cut of a cut; give one start and one end")
        whole = as_cut(source.source)
        channel = whole.channel if source.channel is None else source.channel
        return source._replace(source=whole.source, channel=channel)
    if isinstance(source, str | bytes | os.PathLike | PackedRecording):
        return Cut(source)
    if isinstance(source, bytearray | memoryview):
        return Cut(bytes(source))
    if hasattr(source, "read"):
        return Cut(_read_file(source))
    return _item_cut(source)


def _item_cut(source: object) -> Cut:
    """Return a sound that is given under keys."""
    name = describe(source)
    channel = _item(source, "channel")
    array = _item(source, "array")
    if array is None:
        array = _item(source, "raw")  # the name in the pipelines of transformers
    if array is not None:
        return Cut({"array": _as_numpy(array, name), "sampling_rate": _item(source, "sampling_rate")}, channel=channel)
    for key in ("bytes", "path"):
        if (given := _item(source, key)) is not None:
            if not isinstance(given, str | bytes | os.PathLike | bytearray | memoryview):
                raise InvalidInput(f'{name} has a {type(given).__name__} under "{key}"; {PASS}')
            return as_cut(given)._replace(channel=channel)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        raise InvalidInput(f'{name} has no sampling rate; pass {{"array": array, "sampling_rate": hertz}}')
    if isinstance(source, Mapping):
        raise InvalidInput(f'{name} has nothing under "array", "bytes" or "path"; {PASS}')
    raise InvalidInput(f"{name} can't be read; {PASS}")


def _item(source: Any, key: str) -> Any:
    """Return source[key], or None if there is none."""
    if not hasattr(source, "__getitem__"):
        return None
    try:
        return source[key]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _as_numpy(array: Any, name: str) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:  # PyTorch: on a GPU, of another dtype, with a gradient
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InvalidInput(
            f"{name}: its {type(array).__name__} can't become a NumPy array ({reason}); pass one, from PyTorch by "
            "array.detach().float().cpu().numpy()"
        ) from error


def _read_file(file: Any) -> bytes:
    """Read an open file from its start, and leave its position as it was."""
    name = describe(file)
    try:
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
    except (OSError, ValueError, AttributeError) as error:  # ValueError: it is closed
        raise UnreadableInput(f"{name} can't be read from its start ({error}); pass its path or its bytes") from error
    if not isinstance(content, bytes):
        raise InvalidInput(f"{name} is open as text; open it with mode 'rb'")
    return content


def describe(source: object) -> str:
    """Return the name of a source for messages.

    Args:
        source: A recording, as for `as_cut`, or any other object that was passed as one.

    Returns:
        The path (escaped if it is not printable), the size of the bytes, or the shape of the array. A cut is named with
        its bounds, a packed recording with its shard.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return path if path and path.isprintable() else repr(path)
    if isinstance(source, Cut):
        channel = "" if source.channel is None else f", channel {source.channel}"
        if source.end is not None:
            bounds = f" from {_seconds(source.start)} to {_seconds(source.end)} s"
        else:
            bounds = "" if source.start == 0 else f" from {_seconds(source.start)} s"
        return f"{describe(source.source)}{channel}{bounds}"
    if isinstance(source, PackedRecording):
        return f"record {source.record} of {describe(source.shard)}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"audio bytes ({len(source)} bytes)"
    if isinstance(source, Mapping):
        for key in ("path", "bytes"):
            if isinstance(given := source.get(key), str | os.PathLike | bytes | bytearray | memoryview):
                return describe(given)
    array = source.get("array") if isinstance(source, Mapping) else source
    if isinstance(array, np.ndarray):
        return f"audio array of shape {array.shape}"
    name = getattr(source, "name", None)
    return describe(name) if isinstance(name, str) else f"audio of type {type(source).__name__}"


def _seconds(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) else repr(value)
