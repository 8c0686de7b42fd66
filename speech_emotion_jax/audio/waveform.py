"""Read recordings as mono float32 at 16 kHz, block by block.

    file, bytes, array ─ decode ─► (frames, channels) ─ mean ─► mono ─ soxr HQ ─► 16 kHz ─► blocks

The samples equal those of `librosa.load(path, sr=16000)`: the mean of the channels, resampled by soxr's HQ filter, cut
or padded with zeros to ceil(frames · 16000 / rate). librosa itself is not used because its first call takes seconds.

soxr's stream gives the same bits as its one-shot call. The block size therefore never changes a sample. Memory is
bounded by the block size, not by the length of the recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import soxr
from jaxtyping import Float

from ..errors import InvalidInput, UnreadableInput
from .decode import decode_audio, stated_frames
from .levels import Levels
from .samples import MAX_CHANNELS, MAX_RATE, MIN_RATE
from .sources import AudioSource, as_cut, describe

SAMPLE_RATE = 16_000
MIN_SAMPLES = 560  # two fbank frames; with one frame the original returns NaN

MAX_AMPLITUDE = 1e10  # full scale is 1; louder samples would overflow float32 in the fbank's power spectrum


def load(source: AudioSource) -> Float[np.ndarray, " samples"]:
    """Load a whole recording.

    Args:
        source: A recording, as for `blocks`.

    Returns:
        Mono samples at 16 kHz, float32, full scale 1.

    Raises:
        InvalidInput: As `blocks`.
        UnreadableInput: As `blocks`.
    """
    return np.concatenate(list(_resample(source, silence=False)))


def blocks(
    source: AudioSource, block_samples: int, *, silence: bool = False
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Read a recording in blocks.

    The concatenated blocks equal `load(source)` bit for bit. All errors but ValueError are raised while iterating.

    Args:
        source: A path, the bytes of a file, {"array": array, "sampling_rate": hertz}, a `Cut` of any of these, or
            another form that `as_cut` takes. Arrays have shape (samples,) or (channels, samples). Float samples are
            used unchanged; int8, int16, int32 and uint8 (offset binary) samples are scaled to [-1, 1).
        block_samples: Samples per block at 16 kHz. The last block may be shorter.
        silence: Accept digital silence and recordings of fewer than MIN_SAMPLES. Features of both are undefined.

    Yields:
        Mono samples at 16 kHz, float32, full scale 1.

    Raises:
        UnreadableInput: The file is missing, not a regular file, empty, truncated, damaged or not audio.
        InvalidInput: The array, its rate or the cut is invalid; the cut ends more than CUT_TOLERANCE after its
            recording; or samples are NaN, infinite or absurdly large. The recording has no samples or, unless
            `silence`, fewer than MIN_SAMPLES or only equal ones, or its channels cancel each other, which is known at
            its end.
        ValueError: `block_samples` is less than 1.
    """
    if block_samples < 1:
        raise ValueError(f"block_samples is {block_samples}; it must be at least 1")
    waiting: list[np.ndarray] = []
    count = 0
    for piece in _resample(source, silence):
        waiting.append(piece)
        count += len(piece)
        if count >= block_samples:
            joined = np.concatenate(waiting)
            count = len(joined) % block_samples
            full = len(joined) - count
            yield from (joined[start : start + block_samples] for start in range(0, full, block_samples))
            waiting = [joined[full:]]
    if count:
        yield np.concatenate(waiting)


def stated_seconds(source: AudioSource) -> float | None:
    """Return the duration that a recording's header states.

    Args:
        source: A recording, as for `blocks`. For a `Cut` the result is the duration of the cut.

    Returns:
        The duration in seconds, or None if it is only known after decoding.
    """
    stated = stated_frames(source)
    if stated is None:
        return None
    cut, (frames, rate) = as_cut(source), stated
    first, last = cut.frames(rate)
    return (min(last, frames) - first) / rate if first < frames else None


def _resample(source: AudioSource, silence: bool) -> Iterator[np.ndarray]:
    """Yield the mono signal at 16 kHz in pieces of any length, and check it.

    Each piece is checked for invalid samples. The length and silence are checked at the end.
    """
    name = describe(source)
    rate, samples_in, samples_out = 0, 0, 0
    levels = Levels()
    resampler = None
    for piece_rate, frames in decode_audio(source, name):
        if not MIN_RATE <= piece_rate <= MAX_RATE or frames.shape[1] > MAX_CHANNELS:
            raise UnreadableInput(
                f"{name} states {piece_rate} Hz and {frames.shape[1]} channels, which is outside {MIN_RATE} to "
                f"{MAX_RATE} Hz and {MAX_CHANNELS} channels; convert it to WAV"
            )
        if not rate and piece_rate != SAMPLE_RATE:
            resampler = soxr.ResampleStream(piece_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        rate = piece_rate

        with np.errstate(all="ignore"):  # a sum that overflows float32 becomes infinite and is refused below
            mono = frames.mean(axis=1)
        if not (np.abs(mono) <= MAX_AMPLITUDE).all():
            raise InvalidInput(
                f"{name} has NaN, infinite or absurdly large samples (full scale is 1); remove them or export it again"
            )
        levels.add(frames, mono)
        piece = mono if resampler is None else resampler.resample_chunk(mono)
        samples_in += len(mono)
        samples_out += len(piece)
        yield piece

    # This is librosa's expression. At rare rates (12,347 Hz) it gives one sample more than exact arithmetic.
    total = math.ceil(samples_in * (SAMPLE_RATE / rate)) if samples_in else 0
    if not total:
        raise InvalidInput(f"{name} holds no samples; record or export it again")
    if total < MIN_SAMPLES and not silence:
        raise InvalidInput(
            f"{name} has {total} samples at 16 kHz and {MIN_SAMPLES} (35 ms) are needed; give a longer recording"
        )
    levels.check(name)
    if levels.lowest == levels.highest and not silence:
        raise InvalidInput(
            f"{name} is digital silence: every sample is {levels.lowest:g}; check the microphone or the export"
        )
    if resampler is not None:
        rest = resampler.resample_chunk(np.empty(0, np.float32), last=True)[: total - samples_out]
        yield np.pad(rest, (0, total - samples_out - len(rest)))
