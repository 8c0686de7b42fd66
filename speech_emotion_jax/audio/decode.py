"""Decode files, bytes and arrays to samples at their own rate and number of channels.

The format is detected from the content, never from the file name. libsndfile decodes WAV, RF64, AIFF, AU, CAF, FLAC,
Ogg (Vorbis, Opus) and MPEG audio. PyAV, an optional extra, decodes m4a, WebM and others. Bytes are written to an
anonymous temporary file first.

A file that holds less than its header states is refused. MP3, Ogg and other streams state no length, so they may be cut
anywhere, and all that is there is decoded. Damage in such a stream is only detected if an Ogg page is lost. libsndfile
ignores the rest of joined Ogg streams and of MP3 files with a variable rate and no index. These files are refused.

A part of a recording is reached by seeking where the format allows it. Otherwise the file is decoded from its start.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ..errors import InvalidInput, UnreadableInput
from .packed import PackedRecording
from .stated_length import check_stated_length, temporary_copy

Recording = str | os.PathLike[str] | bytes | Mapping[str, Any] | PackedRecording


class Cut(NamedTuple):
    """A part of a recording.

    Its samples equal those of `librosa.load(path, offset=start, duration=end - start)`: the part is resampled alone.

    Attributes:
        source: The whole recording.
        start: Start of the part, in seconds.
        end: End of the part, in seconds, or None for the end of the recording.
    """

    source: Recording
    start: float
    end: float | None = None

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
        return first, _UNKNOWN_FRAMES if self.end is None else first + int((self.end - self.start) * rate)


AudioSource = Recording | Cut

# Seconds by which a cut may end after its recording. Times in tables are rounded, and encoders change the length.
CUT_TOLERANCE = 0.1

# Only a wrong order of the axes or a broken header exceeds these limits.
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 1_000_000

_READ_VALUES = 1 << 18  # samples decoded at a time, over all channels

# Seconds of Ogg that are decoded before a cut. This is longer than any page. libsndfile 1.2 seeks to a wrong position
# in the last page of a Vorbis stream, and an Opus decoder needs time to settle. After a seek in MP3 the samples differ,
# so MP3 is decoded from the start.
_OGG_LEAD = 30

_UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile reports for a FLAC file that states no length

_MPEG = rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"  # an ID3 tag, or a frame of layer II or III
_LIBSNDFILE = re.compile(rb"(RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|\.snd|caff|fLaC|OggS|" + _MPEG, re.DOTALL)
# Formats that PyAV may open. Playlists are excluded because they open other files, raw formats because they accept any
# bytes, and MPEG-TS and FLV because they add streams midway, which PyAV does not expect. WAV, AIFF, AU, CAF and FLAC
# are excluded because a file that libsndfile refuses is broken.
_AV_DEMUXERS = "mov,matroska,ogg,mp3,aac,ac3,eac3,amr,asf,avi,wv"


def decode_audio(source: AudioSource, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a recording piece by piece.

    Args:
        source: A path, bytes, an array with its rate, a `PackedRecording`, or a `Cut` of any of these.
        name: Name of the source in messages, see `describe`.

    Yields:
        Pairs of the native rate in hertz and samples of shape (frames, channels), float32, never empty. The size of a
        piece is bounded.

    Raises:
        InvalidInput: The array, its rate or the cut is invalid.
        UnreadableInput: The file cannot be read or decoded.
    """
    cut = source if isinstance(source, Cut) else Cut(source, 0)
    _check(cut, name)
    end = rate = 0
    with contextlib.closing(_pieces(cut, name)) as pieces:
        for position, piece_rate, frames in pieces:
            if piece_rate != (rate or piece_rate):
                raise UnreadableInput(
                    f"{name} changes its rate from {rate} to {piece_rate} Hz midway; convert it to WAV"
                )
            rate, end = piece_rate, position + len(frames)
            first, last = cut.frames(rate)
            if len(inside := frames[max(0, first - position) : max(0, last - position)]):
                yield rate, inside
            if end >= last:
                return
    if rate:
        _check_within(cut, end, rate, name)


def stated_frames(source: Recording) -> tuple[int, int] | None:
    """Return the number of frames and the rate that a recording's header states.

    Args:
        source: A path, bytes, an array with its rate, or a `PackedRecording`.

    Returns:
        The number of frames and the rate in hertz. None if they are only known after decoding, or if the file holds
        less than it states.
    """
    name = "the recording"
    if isinstance(source, Mapping):
        array, rate = source.get("array"), source.get("sampling_rate")
        if isinstance(array, np.ndarray) and array.ndim and isinstance(rate, int | float) and 1 <= rate <= MAX_RATE:
            return array.shape[-1], int(rate)
        return None
    try:
        with _open(source, name) as stream:
            stream.seek(0)
            if not _LIBSNDFILE.match(stream.read(12)):
                return None
            with check_stated_length(stream, name) as checked:
                checked.seek(0)
                with _SequentialSoundFile(checked.fileno(), closefd=False) as file:
                    return (file.frames, file.samplerate) if 0 < file.frames < _UNKNOWN_FRAMES else None
    except (OSError, soundfile.LibsndfileError):
        return None


def _check(cut: Cut, name: str) -> None:
    """Raise InvalidInput unless 0 <= start < end."""
    for seconds in (cut.start, math.inf if cut.end is None else cut.end):
        if not isinstance(seconds, int | float | np.integer | np.floating) or isinstance(seconds, bool):
            raise InvalidInput(f"{name}: {seconds!r} is not a number; give the start and the end of a cut in seconds")
    if not 0 <= cut.start < (math.inf if cut.end is None else cut.end) or cut.end == math.inf:
        raise InvalidInput(f"{name} is not a valid cut; give a start of at least 0 s and a later end")


def _check_within(cut: Cut, frames: int, rate: int, name: str) -> None:
    """Raise InvalidInput if the cut starts or ends after a recording of `frames` frames."""
    first, _ = cut.frames(rate)
    beyond = cut.end is not None and cut.end > frames / rate + CUT_TOLERANCE
    if beyond or (first and first >= frames):
        raise InvalidInput(
            f"{name} {'ends' if first < frames else 'starts'} after the end of the recording, which is "
            f"{frames / rate:.3f} s long; correct its start and end"
        )


def _pieces(cut: Cut, name: str) -> Generator[tuple[int, int, np.ndarray], None, None]:
    """Decode at least the part of a recording that a cut covers.

    Yields:
        Triples of a position in frames, the native rate, and the samples there. Pieces may lie before the cut, and a
        few samples after it.
    """
    source = cut.source
    if isinstance(source, Mapping):
        yield from _array_frames(source, cut, name)
    elif isinstance(source, str | bytes | os.PathLike | PackedRecording):
        with _open(source, name) as stream:
            yield from _file_frames(stream, cut, name)
    elif isinstance(source, np.ndarray):
        raise InvalidInput(f'{name} has no sampling rate; pass {{"array": array, "sampling_rate": hertz}}')
    else:
        raise InvalidInput(f'{name} can\'t be read; pass a path, bytes or {{"array": ..., "sampling_rate": ...}}')


def _array_frames(source: Mapping[str, Any], cut: Cut, name: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Check an array and its rate, and yield the samples of the cut as `_pieces` does."""
    array = source.get("array")
    rate: Any = source.get("sampling_rate")
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f'{name} has no NumPy array under "array"; pass {{"array": ..., "sampling_rate": ...}}')
    real = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not real or not MIN_RATE <= rate <= MAX_RATE or rate % 1:
        raise InvalidInput(
            f'{name} has the sampling rate {rate!r}; pass whole hertz, {MIN_RATE} to {MAX_RATE}, as "sampling_rate"'
        )
    if array.ndim not in (1, 2):
        raise InvalidInput(f"{name} has {array.ndim} axes; pass (samples,) or (channels, samples)")
    channels = np.atleast_2d(np.asarray(array))
    if len(channels) > MAX_CHANNELS:
        raise InvalidInput(f"{name} has {len(channels)} channels; the order is (channels, samples): transpose it")
    if array.dtype.kind != "f" and array.dtype not in (np.int8, np.int16, np.int32, np.uint8):
        raise InvalidInput(f"{name} holds {array.dtype}; convert it to floats in [-1, 1], int8, int16, int32 or uint8")
    if channels.size:
        _check_within(cut, channels.shape[1], int(rate), name)
        first, last = cut.frames(int(rate))
        last = min(last, channels.shape[1])
        step = _READ_VALUES // len(channels)
        for start in range(first, last, step):
            yield start, int(rate), _as_float32(channels[:, start : min(start + step, last)].T)


def _as_float32(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float32 with full scale 1, as libsndfile does. Unsigned bytes are offset binary."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    with np.errstate(all="ignore"):  # float64 that overflows float32 becomes infinite and is refused later
        return samples.astype(np.float32)


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
    """Decode a file with libsndfile, or with PyAV if libsndfile does not know its format."""
    stream.seek(0)
    head = stream.read(12)
    if not head:
        raise UnreadableInput(f"{name} is empty (0 bytes); record it or copy it again")
    refusal = "its format is unknown"
    if _LIBSNDFILE.match(head):
        with check_stated_length(stream, name) as checked:
            checked.seek(0)
            try:
                file = _SequentialSoundFile(checked.fileno(), closefd=False)
            except soundfile.LibsndfileError as error:
                refusal = error.error_string.rstrip(".")
            else:
                yield from _libsndfile_frames(file, checked, cut, name)
                return
    stream.seek(0)
    yield from _av_frames(stream, name, refusal)


class _SequentialSoundFile(soundfile.SoundFile):
    """A sound file that is read without seeking.

    SoundFile seeks to the current position after every read. A FLAC stream of unknown length cannot seek, and a damaged
    Ogg stream gives other samples after a seek.
    """

    def seekable(self) -> bool:
        """Return False, so that SoundFile does not seek after a read."""
        return False


def _libsndfile_frames(
    file: _SequentialSoundFile, stream: io.FileIO, cut: Cut, name: str
) -> Iterator[tuple[int, int, np.ndarray]]:
    mpeg = file.subtype.startswith("MPEG")  # libsndfile only estimates the length of MPEG audio
    with file:
        first, last = cut.frames(file.samplerate)
        if file.frames < _UNKNOWN_FRAMES and not mpeg:
            _check_within(cut, file.frames, file.samplerate, name)
        last = min(last, file.frames)  # tags may follow the samples
        done = 0 if mpeg else _seek(file, first, name)
        step = _READ_VALUES // file.channels
        while done < last:
            try:
                frames = file.read(min(step, last - done), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                reason = error.error_string.rstrip(".")
                raise UnreadableInput(
                    f"{name} is truncated or damaged ({reason}, after {done} samples); copy or export it again"
                ) from error
            if not len(frames):
                break
            yield done, file.samplerate, frames
            done += len(frames)
        if done < last and file.frames < _UNKNOWN_FRAMES and not mpeg:
            raise UnreadableInput(
                f"{name} is truncated or damaged: {done} of {file.frames} samples decode; copy or export it again"
            )
        if last < file.frames:
            return
        # libsndfile stops at its estimated length of an MP3, and at the end of the first of joined Ogg streams.
        rest = stream.read(1 << 17)
        if (mpeg and len(rest) > 4096 and re.match(_MPEG, rest)) or (file.format == "OGG" and _has_ogg_page(rest)):
            raise UnreadableInput(f"{name} continues after sample {done}, where libsndfile stops; convert it to WAV")


def _seek(file: _SequentialSoundFile, frame: int, name: str) -> int:
    """Seek to `frame`, or as near before it as the format allows, and return the position."""
    if file.format == "OGG":
        frame = max(0, frame - _OGG_LEAD * file.samplerate)
    if not frame or file.frames >= _UNKNOWN_FRAMES or not soundfile.SoundFile.seekable(file):
        return 0
    try:
        return file.seek(frame)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise UnreadableInput(
            f"{name} is truncated or damaged ({reason}, before sample {frame}); copy or export it again"
        ) from error


def _has_ogg_page(content: bytes) -> bool:
    """Return whether the first Ogg page in `content` is complete. The last page of a truncated stream is not."""
    start = content.find(b"OggS")
    count = sum(content[start + 26 : start + 27])
    segments = content[start + 27 :][:count]
    return start >= 0 and len(segments) == count and start + 27 + count + sum(segments) <= len(content)


def _av_frames(stream: io.FileIO, name: str, refusal: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode a file with PyAV. `refusal` says why libsndfile did not decode it."""
    try:
        import av
        import av.container
        import av.error
    except ImportError:
        raise UnreadableInput(
            f"{name} can't be decoded by libsndfile ({refusal}); convert it to WAV or, if it is m4a, WebM or the like, "
            "pip install 'speech_emotion_jax[m4a]'"
        ) from None
    done, rate, stated = 0, 1, 0.0
    try:
        options = {"format_whitelist": _AV_DEMUXERS}
        # Before release 19, PyAV refuses files with tags that are not UTF-8 unless told otherwise. Release 19 reads
        # them and no longer has the option.
        tags: Any = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
        with av.open(stream, "r", options=options, **tags) as container:
            if not container.streams.audio:
                raise UnreadableInput(f"{name} has no audio track; give a file that has one")
            track = container.streams.audio[0]
            stated = _stated_seconds(track)
            for frame in container.decode(track):
                samples, rate = frame.to_ndarray(), frame.sample_rate
                if samples.size:
                    frames = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
                    yield done, rate, _as_float32(frames)
                    done += frame.samples
    except UnreadableInput:
        raise
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:  # PyAV raises all of these
        reason = getattr(error, "strerror", None) or error
        raise UnreadableInput(
            f"{name} is truncated, damaged or not audio ({refusal}; {reason} after {done} samples); "
            "copy it again or convert it to WAV"
        ) from error
    if done < max(1, (stated - 0.25) * rate):  # some encoders include their delay of up to 0.2 s in the stated length
        raise UnreadableInput(f"{name} is truncated: {done} samples of {stated:.2f} s are there; copy it again")


def _stated_seconds(track: Any) -> float:
    """Return the duration that the container states for a PyAV stream, in seconds, or 0 if it states none.

    FFmpeg's own estimates are ignored.
    """
    if track.frames and track.duration:  # MP4 and related formats have a table of all frames
        return float(track.duration * track.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", ""))  # Matroska, WebM
    return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0.0
