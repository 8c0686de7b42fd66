"""Files, bytes and arrays to samples at their own rate and number of channels.

The content decides what a file is, never its name. libsndfile decodes WAV, RF64, AIFF, AU, CAF, FLAC, Ogg (Vorbis,
Opus) and MPEG audio; PyAV, an optional extra, decodes m4a, WebM and others. Bytes go to an anonymous temporary file.

A file that holds less than it states is refused. MP3, Ogg and other streams that state no length are legal wherever
they are cut and are read for what is there; of damage in them only a lost page of an Ogg is noticed. Where libsndfile
would leave out the rest (joined Ogg streams, MP3 of variable rate without an index) the file is refused.

A part of a recording is sought where the format allows it, and decoded from the start and dropped where not.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ..errors import InvalidInput, UnreadableInput
from .packed import PackedRecording

Recording = str | os.PathLike[str] | bytes | Mapping[str, Any] | PackedRecording


class Cut(NamedTuple):
    """A part of a recording, in seconds; to its end where `end` is None.

    Its samples are those of `librosa.load(path, offset=start, duration=end - start)`: that part is resampled alone.
    """

    source: Recording
    start: float
    end: float | None = None

    def frames(self, rate: int) -> tuple[int, int]:
        """The first frame at that rate and the one after the last, rounded as librosa does: the start and the length
        each down, so that neighbours whose border falls between two frames may lack one there."""
        first = int(self.start * rate)
        return first, _UNKNOWN_FRAMES if self.end is None else first + int((self.end - self.start) * rate)


AudioSource = Recording | Cut

CUT_TOLERANCE = 0.1  # seconds that a cut may end beyond its recording: tables are rounded, encoders add or lose some

# Bounds that only a wrong axis order or a broken header oversteps.
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 1_000_000

_READ_VALUES = 1 << 18  # decoded at a time, all channels together

# libsndfile 1.2 seeks to the wrong place in the last page of a Vorbis stream, Opus has to settle, and MP3 comes out
# otherwise by it. Ogg is therefore read from this many seconds before a cut, longer than pages are, and MP3 whole.
_OGG_LEAD = 30

# Writers that can't seek back state 0, or a size just below 2 or 4 GiB, or (FLAC, as libsndfile tells it) this count.
_UNKNOWN_SIZE = 0x7F00_0000
_UNKNOWN_FRAMES = 2**63 - 1

_MPEG = rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"  # a tag, or a frame of layer II or III
_LIBSNDFILE = re.compile(rb"(RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|\.snd|caff|fLaC|OggS|" + _MPEG, re.DOTALL)
# What PyAV may open: nothing that opens other files (playlists), finds sound in arbitrary bytes or adds streams midway
# (MPEG-TS, FLV: PyAV doesn't expect them), and no WAV, AIFF, AU, CAF or FLAC: what libsndfile refuses there is broken.
_AV_DEMUXERS = "mov,matroska,ogg,mp3,aac,ac3,eac3,amr,asf,avi,wv"


def decode_audio(source: AudioSource, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs of the native rate and float32 samples of shape (frames, channels), never empty, of bounded size."""
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
    """The number of frames and the rate that a recording states; None where only decoding tells, or it has less."""
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
            with _stated_length_checked(stream, name) as checked:
                checked.seek(0)
                with _Forward(checked.fileno(), closefd=False) as file:
                    return (file.frames, file.samplerate) if 0 < file.frames < _UNKNOWN_FRAMES else None
    except (OSError, soundfile.LibsndfileError):
        return None


def _check(cut: Cut, name: str) -> None:
    for seconds in (cut.start, math.inf if cut.end is None else cut.end):
        if not isinstance(seconds, int | float | np.integer | np.floating) or isinstance(seconds, bool):
            raise InvalidInput(f"{name}: {seconds!r} is no number; give the start and the end of a cut in seconds")
    if not 0 <= cut.start < (math.inf if cut.end is None else cut.end) or cut.end == math.inf:
        raise InvalidInput(f"{name} is no part of a recording; give a start of 0 s or more and an end beyond it")


def _check_within(cut: Cut, frames: int, rate: int, name: str) -> None:
    """Whether a recording of so many frames reaches as far as its cut."""
    first, _ = cut.frames(rate)
    beyond = cut.end is not None and cut.end > frames / rate + CUT_TOLERANCE
    if beyond or (first and first >= frames):
        raise InvalidInput(
            f"{name} {'ends' if first < frames else 'starts'} beyond the recording, which is {frames / rate:.3f} s "
            "long; mend its start and end"
        )


def _pieces(cut: Cut, name: str) -> Generator[tuple[int, int, np.ndarray], None, None]:
    """Triples of a position in frames, the native rate and the samples there.

    What lies before the cut may come or not, and of what lies behind it as little as is easy.
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
    """Full scale to 1, as libsndfile has it; unsigned bytes are offset binary."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    with np.errstate(all="ignore"):  # float64 beyond float32 becomes infinite, and is told as such
        return samples.astype(np.float32)


def _open(
    source: str | os.PathLike[str] | bytes | PackedRecording, name: str
) -> contextlib.AbstractContextManager[io.FileIO]:
    """The source as an unbuffered regular file, whose descriptor the decoders share; bytes go to a temporary one."""
    if isinstance(source, PackedRecording):
        source = source.read()
    if isinstance(source, bytes):
        return _temporary_copy(io.BytesIO(source))
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


@contextlib.contextmanager
def _temporary_copy(stream: io.BytesIO | io.FileIO) -> Iterator[io.FileIO]:
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        with io.FileIO(copy.fileno(), "r+", closefd=False) as unbuffered:
            yield unbuffered


def _file_frames(stream: io.FileIO, cut: Cut, name: str) -> Iterator[tuple[int, int, np.ndarray]]:
    stream.seek(0)
    head = stream.read(12)
    if not head:
        raise UnreadableInput(f"{name} is empty (0 bytes); record it or copy it again")
    refusal = "its format is unknown"
    if _LIBSNDFILE.match(head):
        with _stated_length_checked(stream, name) as checked:
            checked.seek(0)
            try:
                file = _Forward(checked.fileno(), closefd=False)
            except soundfile.LibsndfileError as error:
                refusal = error.error_string.rstrip(".")
            else:
                yield from _libsndfile_frames(file, checked, cut, name)
                return
    stream.seek(0)
    yield from _av_frames(stream, name, refusal)


class _Forward(soundfile.SoundFile):
    """Reads straight on. SoundFile seeks, after every read, to where it already is; a FLAC stream of unstated length
    can't do that, and a damaged Ogg comes out otherwise by it."""

    def seekable(self) -> bool:
        return False


def _libsndfile_frames(file: _Forward, stream: io.FileIO, cut: Cut, name: str) -> Iterator[tuple[int, int, np.ndarray]]:
    mpeg = file.subtype.startswith("MPEG")  # its length is an estimate
    with file:
        first, last = cut.frames(file.samplerate)
        if file.frames < _UNKNOWN_FRAMES and not mpeg:
            _check_within(cut, file.frames, file.samplerate, name)
        last = min(last, file.frames)  # never beyond: tags may follow
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
        # libsndfile ends an MP3 at its estimate of the length, and joined Ogg streams at the end of the first.
        rest = stream.read(1 << 17)
        if (mpeg and len(rest) > 4096 and re.match(_MPEG, rest)) or (file.format == "OGG" and _has_ogg_page(rest)):
            raise UnreadableInput(f"{name} goes on where libsndfile stops, after {done} samples; convert it to WAV")


def _seek(file: _Forward, frame: int, name: str) -> int:
    """Go to that frame, or to one before it, as near as the format allows; which one it is."""
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
    """Whether a whole page starts where one is first announced; the last one of a stream that was cut is not whole."""
    start = content.find(b"OggS")
    count = sum(content[start + 26 : start + 27])
    segments = content[start + 27 :][:count]
    return start >= 0 and len(segments) == count and start + 27 + count + sum(segments) <= len(content)


@contextlib.contextmanager
def _stated_length_checked(stream: io.FileIO, name: str) -> Iterator[io.FileIO]:
    """Refuses WAV, AIFF, CAF and AU with less than they state: libsndfile reads what is there and says nothing.

    A WAV that states no bytes of samples, because its writer couldn't seek back, is given as a copy that states an
    unknown number: libsndfile would read none.
    """
    form, riff_size = _fields(stream, 0, "<4sI")
    size_at, start, size = _sample_chunk(stream)
    end = stream.seek(0, os.SEEK_END)
    if start + size > end and (size < _UNKNOWN_SIZE or form in (b"RF64", b"caff")):
        raise UnreadableInput(
            f"{name} is truncated: it states {size} bytes of samples and has {max(0, end - start)}; copy it again"
        )
    other_chunks_follow = start < 8 + riff_size <= end
    if form in (b"RIFF", b"RF64") and size == 0 < start < end and not other_chunks_follow:
        stream.seek(0)
        with _temporary_copy(stream) as copy:
            for offset, unknown in ((0, b"RIFF\xff\xff\xff\xff"), (size_at, b"\xff\xff\xff\xff")):
                copy.seek(offset)
                copy.write(unknown)
            yield copy
    else:
        yield stream


def _sample_chunk(stream: io.FileIO) -> tuple[int, int, int]:
    """Where a file of chunks states the size of its samples, where they start, and that size in bytes; else zeros."""
    (form,) = _fields(stream, 0, "<4s")
    if form == b".snd":
        return 8, *_fields(stream, 4, ">II")
    layout = {b"RIFF": "<4sI", b"RF64": "<4sI", b"RIFX": ">4sI", b"FORM": ">4sI", b"caff": ">4sq"}.get(form)
    end = stream.seek(0, os.SEEK_END)
    position, size_beyond_4_gib = 8 if form == b"caff" else 12, 0
    for _ in range(256):  # more chunks than any file has before its samples
        if layout is None or not 0 < position < end:
            break
        tag, size = _fields(stream, position, layout)
        content = position + struct.calcsize(layout)
        if tag in (b"data", b"SSND"):
            wide = form == b"RF64" and size == 0xFFFF_FFFF
            return position + 4, content, size_beyond_4_gib if wide else size
        if tag == b"ds64":
            (size_beyond_4_gib,) = _fields(stream, content + 8, "<Q")
        position = content + size + (size % 2 if form != b"caff" else 0)
    return 0, 0, 0


def _fields(stream: io.FileIO, offset: int, layout: str) -> tuple[Any, ...]:
    """The fields at `offset` in `struct`'s notation; zeros where the file has ended."""
    stream.seek(offset)
    size = struct.calcsize(layout)
    return struct.unpack(layout, stream.read(size).ljust(size, b"\0"))


def _av_frames(stream: io.FileIO, name: str, refusal: str) -> Iterator[tuple[int, int, np.ndarray]]:
    try:
        import av
        import av.error
    except ImportError:
        raise UnreadableInput(
            f"{name} can't be decoded by libsndfile ({refusal}); convert it to WAV or, if it is m4a, WebM or the like, "
            "pip install 'speech_emotion_jax[m4a]'"
        ) from None
    done, rate, stated = 0, 1, 0.0
    try:
        options = {"format_whitelist": _AV_DEMUXERS}
        with av.open(stream, "r", options=options, metadata_errors="replace") as container:
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
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:  # PyAV's own, where data make no sense
        reason = getattr(error, "strerror", None) or error
        raise UnreadableInput(
            f"{name} is truncated, damaged or not audio ({refusal}; {reason} after {done} samples); "
            "copy it again or convert it to WAV"
        ) from error
    if done < max(1, (stated - 0.25) * rate):  # some encoders count their delay, up to 0.2 s, into the length
        raise UnreadableInput(f"{name} is truncated: {done} samples of {stated:.2f} s are there; copy it again")


def _stated_seconds(track: Any) -> float:
    """The length that a container states for a PyAV stream; 0 where it states none, whatever FFmpeg may estimate."""
    if track.frames and track.duration:  # MP4 and its kin: a table of all frames
        return float(track.duration * track.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", track.metadata.get("DURATION", ""))  # Matroska, WebM
    return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0.0
