"""Decode files with FFmpeg, by the optional package PyAV."""

from __future__ import annotations

import errno
import importlib.util
import io
import re
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import UnreadableInput
from .samples import as_float32

# Formats that FFmpeg may open. Playlists are excluded because they open other files, raw formats because they accept
# any bytes, and MPEG-TS and FLV because they add streams midway, which PyAV does not expect.
_DEMUXERS = (
    "mov,matroska,ogg,mp3,aac,ac3,eac3,amr,asf,avi,wv,tta,ape,tak,mpc,mpc8,dsf,voc,wav,w64,aiff,au,caf,flac,nistsphere"
)
_EXCLUDED = ((re.compile(rb"FLV\x01"), "FLV"), (re.compile(rb"G.{187}G", re.DOTALL), "an MPEG transport stream"))
_HEAD_BYTES = 4096


class _Stream:
    """A file for PyAV. A seek to an impossible position returns an error: PyAV prints the traceback of one raised."""

    def __init__(self, stream: io.FileIO):
        self._stream = stream
        self.read, self.tell = stream.read, stream.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL


def has_ffmpeg() -> bool:
    """Return whether PyAV is installed."""
    return sys.modules.get("av", True) is not None and importlib.util.find_spec("av") is not None


def ffmpeg_frames(stream: io.FileIO, name: str, refusal: str, *, pcm: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode a file from its start.

    Args:
        stream: The open file.
        name: Name of the source in messages.
        refusal: Why libsndfile does not decode it.
        pcm: Whether it may hold plain PCM. If libsndfile knows the container but not this file, it is broken.

    Yields:
        Triples of a position in frames, the rate, and the samples there.

    Raises:
        UnreadableInput: PyAV is not installed; the format or the codec is not supported; or the file is broken.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    if excluded := next((kind for pattern, kind in _EXCLUDED if pattern.match(head)), None):
        raise UnreadableInput(f"{name} is {excluded}, a format that is not supported; convert it to WAV, FLAC or m4a")
    try:
        import av
        import av.container
        import av.error
    except ImportError:
        raise UnreadableInput(
            f"{name} can't be decoded by libsndfile ({refusal}); convert it to WAV with 16-bit samples or, if it is "
            "m4a, WebM or has another codec, pip install 'speech_emotion_jax[m4a]'"
        ) from None
    done, rate, stated, codec = 0, 1, 0.0, ""
    try:
        stream.seek(0)
        options = {"format_whitelist": _DEMUXERS}
        # Before release 19, PyAV refuses files with tags that are not UTF-8 unless told otherwise. Release 19 reads
        # them and no longer has the option.
        tags: Any = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
        with av.open(_Stream(stream), "r", options=options, **tags) as container:
            if not container.streams.audio:
                raise UnreadableInput(f"{name} has no audio track; give a file that has one")
            track = container.streams.audio[0]
            plain = re.search(rb"fmt .{4}[\x01\x03\xfe]", head, re.DOTALL)
            if track.codec_context is None and plain and not pcm:
                raise ValueError("its header contradicts itself")
            if track.codec_context is None:
                raise UnreadableInput(
                    f"{name} holds a codec that is not supported, {_codec(head)}; export it with 16-bit samples or as "
                    "FLAC, with the program that made it"
                )
            codec = f"read as {track.codec_context.name}: "
            if not pcm and track.codec_context.name.startswith("pcm_"):
                raise ValueError("its header contradicts itself")
            stated = _stated_seconds(track)
            for frame in container.decode(track):
                samples, rate = frame.to_ndarray(), frame.sample_rate
                if samples.size:
                    frames = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
                    yield done, rate, as_float32(frames)
                    done += frame.samples
    except UnreadableInput:
        raise
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:  # PyAV raises all of these
        reason = getattr(error, "strerror", None) or error
        raise UnreadableInput(
            f"{name} is truncated, damaged or not audio ({refusal}; {codec}{reason} after {done} samples); "
            "copy it again, or convert it to WAV with 16-bit samples"
        ) from error
    if done < max(1, (stated - 0.25) * rate):  # some encoders include their delay of up to 0.2 s in the stated length
        raise UnreadableInput(f"{name} is truncated: {done} samples of {stated:.2f} s are there; copy it again")


def _codec(head: bytes) -> str:
    """Return what the header of a file calls its codec."""
    if match := re.search(rb"fmt .{4}(..)", head, re.DOTALL):
        return f"WAV format 0x{struct.unpack('<H', match[1])[0]:04x}"
    if head[:4] == b"caff":
        return repr(head[28:32].decode("latin-1"))
    if match := re.search(rb"COMM.{4}.{18}(.{4})", head, re.DOTALL):
        return repr(match[1].decode("latin-1"))
    return "which FFmpeg does not name"


def _stated_seconds(track: Any) -> float:
    """Return the duration that the container states for a PyAV stream, in seconds, or 0 if it states none.

    FFmpeg's own estimates are ignored.
    """
    if track.frames and track.duration:  # MP4 and related formats have a table of all frames
        return float(track.duration * track.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", ""))  # Matroska, WebM
    return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0.0
