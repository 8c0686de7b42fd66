"""Sound files drawn by a seed: container, codec, rate, channels, bit depth, suffix-free content, and damage."""

import io
from typing import NamedTuple

import av
import numpy as np
import soundfile

from .recordings import encode, encode_with_av, tones

# (container, subtype) of libsndfile, and the rates that the codec takes; None: any.
BY_LIBSNDFILE: tuple[tuple[str, str, tuple[int, ...] | None], ...] = (
    *(("WAV", f"PCM_{bits}", None) for bits in ("U8", "16", "24", "32")),
    *(("WAV", codec, None) for codec in ("FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")),
    *((container, "PCM_16", None) for container in ("WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST")),
    *((container, "PCM_24", None) for container in ("WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST")),
    ("CAF", "ALAC_16", None),
    ("FLAC", "PCM_S8", None),
    ("FLAC", "PCM_16", None),
    ("FLAC", "PCM_24", None),
    ("OGG", "VORBIS", (8_000, 16_000, 44_100, 48_000)),
    ("OGG", "OPUS", (8_000, 16_000, 48_000)),
    ("MP3", "MPEG_LAYER_III", (8_000, 16_000, 22_050, 44_100, 48_000)),
)
# (container, codec) of FFmpeg. Its writer of ALAC in CAF loses frames, and ends the process with six channels.
BY_FFMPEG = (
    *(("wav", codec, None) for codec in ("adpcm_yamaha", "adpcm_swf", "g722")),
    ("caf", "adpcm_ima_qt", None),
    ("ipod", "aac", (16_000, 44_100, 48_000)),
    ("ipod", "alac", None),
    ("adts", "aac", (16_000, 44_100, 48_000)),
    ("mov", "pcm_s24le", None),
    ("matroska", "flac", (8_000, 16_000, 44_100)),
    ("webm", "libopus", (16_000, 48_000)),
    ("tta", "tta", None),
    ("wv", "wavpack", None),
    ("ac3", "ac3", (44_100, 48_000)),
)
RATES = (8_000, 11_025, 12_347, 16_000, 22_050, 44_100, 48_000, 96_000)
DAMAGE = ("cut", "flipped", "hole", "inserted", "doubled")


class DrawnSound(NamedTuple):
    """A sound file.

    Attributes:
        name: What was drawn.
        content: The file.
        expected: (channels, samples) by libsndfile or FFmpeg alone, and the rate; None if the file is damaged.
    """

    name: str
    content: bytes
    expected: tuple[np.ndarray, int] | None


def draw_sound(seed: int) -> DrawnSound | None:
    """Draw a file, one of two damaged. None if the codec takes no such rate or number of channels."""
    dice = np.random.default_rng(seed)
    by_ffmpeg = bool(dice.integers(2))
    forms = BY_FFMPEG if by_ffmpeg else BY_LIBSNDFILE
    container, codec, rates = forms[dice.integers(len(forms))]
    rate = int(dice.choice(rates or RATES))
    channels = int(dice.choice([1, 1, 2, 2, 6]))
    samples = tones(float(dice.uniform(0.1, 1.2)), rate, channels)
    name = f"{container} {codec} {rate} Hz {channels} channels, seed {seed}"
    try:
        content = (encode_with_av if by_ffmpeg else encode)(samples, rate, container, codec)
        expected = _by_ffmpeg(content) if by_ffmpeg else _by_libsndfile(content)
    except (av.FFmpegError, soundfile.LibsndfileError, ValueError):
        return None
    if expected[0].shape[1] < 0.05 * expected[1]:  # FFmpeg's writer of CAF loses the last frame
        return None
    if dice.integers(2):
        damage = str(dice.choice(DAMAGE))
        return DrawnSound(f"{name}, {damage}", _damaged(content, damage, dice), None)
    return DrawnSound(name, content, expected)


def _by_libsndfile(content: bytes) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return samples.T, rate


def _by_ffmpeg(content: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(content)) as file:
        track = file.streams.audio[0]
        pieces = []
        for frame in file.decode(track):
            piece = frame.to_ndarray()
            pieces.append(piece if frame.format.is_planar else piece.reshape(frame.samples, -1).T)
    samples = np.concatenate(pieces, axis=1)
    if samples.dtype.kind == "i":
        return (samples.astype(np.float32) / 2.0 ** (8 * samples.itemsize - 1)).astype(np.float32), track.rate
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / 128, track.rate
    return samples.astype(np.float32), track.rate


def _damaged(content: bytes, damage: str, dice: np.random.Generator) -> bytes:
    at = int(dice.integers(len(content)))
    size = int(dice.integers(1, 3_000))
    if damage == "cut":
        return content[:at]
    if damage == "hole":
        return content[:at] + content[at + size :]
    if damage == "inserted":
        return content[:at] + dice.bytes(size) + content[at:]
    if damage == "doubled":
        return content + content
    changed = bytearray(content)
    for place in dice.integers(len(content) if dice.integers(2) else min(128, len(content)), size=8):
        changed[place] = int(dice.integers(256))
    return bytes(changed)
