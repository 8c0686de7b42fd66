"""Decode files, bytes and arrays to samples at their own rate and number of channels.

The format is detected from the content, never from the file name. libsndfile decodes WAV, RF64, W64, AIFF, AU, CAF,
FLAC, NIST SPHERE, Ogg (Vorbis, Opus) and MPEG audio. PyAV, an optional extra, decodes m4a, WebM and others, codecs in
these containers that libsndfile lacks, joined Ogg streams, and MP3 of which libsndfile would read a part. Bytes are
written to an anonymous temporary file first.

A file that holds less than its header states is refused. MP3, Ogg and other streams state no length, so they may be cut
anywhere, and all that is there is decoded. Damage in such a stream is only detected if an Ogg page is lost or if other
bytes stand between the frames of an MP3.

A part of a recording is reached by seeking where the format allows it. Otherwise the file is decoded from its start.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Generator, Iterator, Mapping

import numpy as np
import soundfile

from ..errors import InvalidInput, UnreadableInput
from .ffmpeg import ffmpeg_frames, has_ffmpeg
from .libsndfile import FORMATS, MPEG, SequentialSoundFile, is_joined_ogg, libsndfile_frames
from .mpeg import frames_only, walk_frames
from .packed import PackedRecording
from .samples import MAX_RATE, array_frames
from .sources import UNKNOWN_FRAMES, AudioSource, Cut, as_cut
from .stated_length import check_stated_length, temporary_copy


def decode_audio(source: AudioSource, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a recording piece by piece.

    Args:
        source: A recording, as for `as_cut`.
        name: Name of the source in messages, see `describe`.

    Yields:
        Pairs of the native rate in hertz and samples of shape (frames, channels), float32, never empty. The size of a
        piece is bounded. A cut with a channel has this one alone.

    Raises:
        InvalidInput: The array, its rate or the cut is invalid, or there is no such channel.
        UnreadableInput: The file cannot be read or decoded.
    """
    cut = as_cut(source)
    cut.check(name)
    end = rate = channels = 0
    with contextlib.closing(_pieces(cut, name)) as pieces:
        for position, piece_rate, frames in pieces:
            if piece_rate != (rate or piece_rate):
                raise UnreadableInput(
                    f"{name} changes its rate from {rate} to {piece_rate} Hz midway; convert it to WAV"
                )
            if frames.shape[1] != (channels or frames.shape[1]):
                raise UnreadableInput(
                    f"{name} changes from {channels} to {frames.shape[1]} channels midway; convert it to WAV"
                )
            rate, end, channels = piece_rate, position + len(frames), frames.shape[1]
            if cut.channel is not None:
                frames = _channel(frames, cut.channel, name)
            first, last = cut.frames(rate)
            if len(inside := frames[max(0, first - position) : max(0, last - position)]):
                yield rate, inside
            if end >= last:
                return
    if rate:
        cut.check_within(end, rate, name)


def stated_frames(source: AudioSource) -> tuple[int, int] | None:
    """Return the number of frames and the rate that a recording's header states.

    Args:
        source: A recording, as for `as_cut`. The bounds of a cut are ignored.

    Returns:
        The number of frames and the rate in hertz. None if they are only known after decoding, or if the file holds
        less than it states.
    """
    name = "the recording"
    try:
        recording = as_cut(source).source
        if not isinstance(recording, str | bytes | os.PathLike | PackedRecording):
            assert isinstance(recording, Mapping)
            array, rate = recording["array"], recording["sampling_rate"]
            if array.ndim and isinstance(rate, int | float) and 1 <= rate <= MAX_RATE:
                return array.shape[-1], int(rate)
            return None
        with _open(recording, name) as stream:
            stream.seek(0)
            if not FORMATS.match(stream.read(12)):
                return None
            with check_stated_length(stream, name) as checked:
                checked.seek(0)
                with SequentialSoundFile(checked.fileno(), closefd=False) as file:
                    return (file.frames, file.samplerate) if 0 < file.frames < UNKNOWN_FRAMES else None
    except (OSError, InvalidInput, soundfile.LibsndfileError):
        return None


def _channel(frames: np.ndarray, channel: int, name: str) -> np.ndarray:
    """Return one channel, as frames of one."""
    count = frames.shape[1]
    if channel >= count:
        advice = f"give 0 to {count - 1}" if count > 1 else "leave the channel out, or give 0"
        raise InvalidInput(f"{name}: the recording has {count} channel{'s' * (count > 1)}; {advice}")
    return frames[:, channel : channel + 1]


def _pieces(cut: Cut, name: str) -> Generator[tuple[int, int, np.ndarray], None, None]:
    """Decode at least the part of a recording that a cut covers.

    Yields:
        Triples of a position in frames, the native rate, and the samples there. Pieces may lie before the cut, and a
        few samples after it.
    """
    source = cut.source
    if isinstance(source, str | bytes | os.PathLike | PackedRecording):
        with _open(source, name) as stream:
            yield from _file_frames(stream, cut, name)
    else:
        assert isinstance(source, Mapping)
        yield from array_frames(source, cut, name)


def _open(
    source: str | os.PathLike[str] | bytes | PackedRecording, name: str
) -> contextlib.AbstractContextManager[io.FileIO]:
    """Open the source as an unbuffered regular file, whose descriptor the decoders share.

    Bytes are written to a temporary file.
    """
    if isinstance(source, PackedRecording):
        source = source.read()
    if isinstance(source, bytes):
        return temporary_copy(io.BytesIO(source))
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISREG(mode):
            return io.FileIO(source)
    except FileNotFoundError:
        raise UnreadableInput(f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise UnreadableInput(f"{name} can't be opened ({reason}); check the path and its permissions") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
    raise UnreadableInput(f"{name} is {kind}; give a regular audio file")


def _file_frames(stream: io.FileIO, cut: Cut, name: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode a file with libsndfile, or with FFmpeg if libsndfile does not read it or not all of it."""
    stream.seek(0)
    head = stream.read(12)
    if not head:
        raise UnreadableInput(f"{name} is empty (0 bytes); record it or copy it again")
    if not FORMATS.match(head):
        yield from ffmpeg_frames(stream, name, "its format is unknown", pcm=True)
        return
    with contextlib.ExitStack() as stack:
        readable = stream
        mpeg = walk_frames(stream) if MPEG.match(head) else None
        joined = "several Ogg streams follow each other" if head[:4] == b"OggS" and is_joined_ogg(stream) else None
        fault = joined or (mpeg and mpeg.fault)
        if mpeg:
            readable = stack.enter_context(frames_only(stream, mpeg))
            if mpeg.skipped:
                warnings.warn(
                    f"{name} has {mpeg.skipped} bytes between its frames that are no sound and are left out; "
                    "copy it again if some of it is missing",
                    stacklevel=2,
                )
        if fault and has_ffmpeg():
            yield from ffmpeg_frames(readable, name, fault, pcm=False)
            return
        readable = stack.enter_context(check_stated_length(readable, name))
        readable.seek(0)
        try:
            file = SequentialSoundFile(readable.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            yield from ffmpeg_frames(readable, name, error.error_string.rstrip("."), pcm=False)
        else:
            yield from libsndfile_frames(file, readable, cut, name)
