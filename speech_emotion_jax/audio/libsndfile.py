"""Decode files with libsndfile."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile

from ..errors import UnreadableInput
from .sources import UNKNOWN_FRAMES, Cut

READ_VALUES = 1 << 18  # samples decoded at a time, over all channels

# Seconds of Ogg that are decoded before a cut. This is longer than any page. libsndfile 1.2 seeks to a wrong position
# in the last page of a Vorbis stream, and an Opus decoder needs time to settle. After a seek in MP3 the samples differ,
# so MP3 is decoded from the start.
_OGG_LEAD = 30

MPEG = re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]")  # an ID3 tag, or a frame of layer II or III
FORMATS = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|FORM....AIF[FC]|\.snd|caff|fLaC|OggS|NIST_1A|" + MPEG.pattern,
    re.DOTALL,
)


class SequentialSoundFile(soundfile.SoundFile):
    """A sound file that is read without seeking.

    SoundFile seeks to the current position after every read. A FLAC stream of unknown length cannot seek, and a damaged
    Ogg stream gives other samples after a seek.
    """

    def seekable(self) -> bool:
        """Return False, so that SoundFile does not seek after a read."""
        return False


def libsndfile_frames(
    file: SequentialSoundFile, stream: io.FileIO, cut: Cut, name: str
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode the part of a file that a cut covers.

    Args:
        file: The opened sound file.
        stream: The file that `file` reads from.
        cut: The part.
        name: Name of the source in messages.

    Yields:
        Triples of a position in frames, the rate, and the samples there.

    Raises:
        InvalidInput: The cut lies outside of the recording.
        UnreadableInput: The file is truncated or damaged, or libsndfile does not read all of it.
    """
    mpeg = file.subtype.startswith("MPEG")  # libsndfile only estimates the length of MPEG audio
    with file:
        first, last = cut.frames(file.samplerate)
        if file.frames < UNKNOWN_FRAMES and not mpeg:
            cut.check_within(file.frames, file.samplerate, name)
        last = min(last, file.frames)  # tags may follow the samples
        done = 0 if mpeg else _seek(file, first, name)
        step = READ_VALUES // file.channels
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
        if done < last and file.frames < UNKNOWN_FRAMES and not mpeg:
            raise UnreadableInput(
                f"{name} is truncated or damaged: {done} of {file.frames} samples decode; copy or export it again"
            )
        if last < file.frames:
            return
        # libsndfile stops at its estimated length of an MP3, and at the end of the first of joined Ogg streams.
        rest = stream.read(1 << 17)
        if (mpeg and len(rest) > 4096 and MPEG.match(rest)) or (file.format == "OGG" and _has_ogg_page(rest)):
            raise UnreadableInput(
                f"{name} continues after sample {done}, where libsndfile stops; "
                "pip install 'speech_emotion_jax[m4a]', which reads all of it, or convert it to WAV"
            )


def is_joined_ogg(stream: io.FileIO) -> bool:
    """Return whether a file holds several Ogg streams one after the other. libsndfile reads the first one."""
    position, begun = 0, False
    while (header := os.pread(stream.fileno(), 27 + 255, position))[:4] == b"OggS" and len(header) >= 27:
        begins = bool(header[5] & 2)
        if begins and begun:
            return True
        begun = begun or not begins
        position += 27 + header[26] + sum(header[27 : 27 + header[26]])
    return False


def _seek(file: SequentialSoundFile, frame: int, name: str) -> int:
    """Seek to `frame`, or as near before it as the format allows, and return the position."""
    if file.format == "OGG":
        frame = max(0, frame - _OGG_LEAD * file.samplerate)
    if not frame or file.frames >= UNKNOWN_FRAMES or not soundfile.SoundFile.seekable(file):
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
