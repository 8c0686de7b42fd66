"""Compute the Kaldi filterbank features of Wav2Vec2-BERT (SeamlessM4TFeatureExtractor) in jitted, batched JAX.

The features are 80 log mel energies every 10 ms, normalised per mel bin over the clip. Two neighbouring frames are
stacked to one feature frame of 160 values.

The reference computes its FFT in float64, and float32 would not do. In a band-limited recording the upper bins are 11
digits smaller than the loud ones, which is less than the rounding errors of a float32 FFT. The normalisation would then
amplify these errors to the size of the signal.

DC removal, pre-emphasis, window and Fourier transform are all linear, so they are one matrix here. It is applied to
each frame as an error-free product: matrix and frame are split into slices of 8 bits, whose products float32
accumulates without rounding (Ozaki et al. 2012). Slices of 8 bits fit bfloat16 and TF32, so the products are exact in
every precision in which a TPU or GPU multiplies. The error of the spectrum is about 2^-36 of the frame's peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .waveform import SAMPLE_RATE, AudioSource, blocks

FRAME_SAMPLES = SAMPLE_RATE * 25 // 1000  # 400
HOP_SAMPLES = SAMPLE_RATE * 10 // 1000  # 160
FFT_SAMPLES = 512
MEL_BINS = 80
MEL_FLOOR = 1.1920928955078125e-07
PREEMPHASIS = 0.97
LOWEST_HZ, HIGHEST_HZ = 20.0, SAMPLE_RATE / 2
WAVEFORM_SCALE = 2.0**15  # Kaldi reads 16-bit integers
VARIANCE_FLOOR = 1e-7

STACK_SIZE = 2  # fbank frames in one feature frame
FEATURE_DIM = STACK_SIZE * MEL_BINS
MAX_FBANK_FRAMES = 16_000  # the original truncates here: 160 s
MAX_SAMPLES = FRAME_SAMPLES + MAX_FBANK_FRAMES * HOP_SAMPLES - 1
MAX_SECONDS = MAX_SAMPLES / SAMPLE_RATE

_SLICE_BITS = 8
_SLICES = 5


class MelStatistics(NamedTuple):
    """Statistics of each mel bin over the frames of a clip.

    Attributes:
        mean: Mean log energy, float32.
        deviation: Standard deviation (ddof 1, variance + 1e-7), float32.
    """

    mean: Float[np.ndarray | Array, "*batch 80"]
    deviation: Float[np.ndarray | Array, "*batch 80"]


class Clip(NamedTuple):
    """A recording, truncated to what the model takes.

    Attributes:
        waveform: Mono samples at 16 kHz, float32, at most MAX_SAMPLES (160 s).
        samples: Number of samples of the whole recording.
        statistics: Statistics of the whole recording if it was truncated, else None. The original normalises over the
            whole recording before it truncates.
    """

    waveform: Float[np.ndarray, " samples"]
    samples: int
    statistics: MelStatistics | None

    @property
    def truncated(self) -> bool:
        """Whether the recording is longer than `waveform`."""
        return self.statistics is not None


def fbank_frames(samples: int) -> int:
    """Return the number of whole 25 ms frames, one every 10 ms, in `samples` samples at 16 kHz."""
    return max(0, 1 + (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def feature_frames(samples: int) -> int:
    """Return the number of feature frames (20 ms) of `samples` samples at 16 kHz, truncated to 160 s.

    A last feature frame with only one fbank frame is counted.
    """
    return -(-min(fbank_frames(samples), MAX_FBANK_FRAMES) // STACK_SIZE)


def samples_for(frames: int) -> int:
    """Return the least number of samples at 16 kHz that fill `frames` feature frames."""
    return FRAME_SAMPLES + (frames * STACK_SIZE - 1) * HOP_SAMPLES


@cache
def _mel_filters() -> Float[np.ndarray, "257 80"]:
    """Return triangular filters on Kaldi's mel scale, 1127 ln(1 + f / 700).

    The sides are straight in mel, not in hertz. The filters are not normalised.
    """

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    lowest, highest = mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    corners = np.linspace(lowest, highest, MEL_BINS + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = mel(np.arange(FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / FFT_SAMPLES)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


@cache
def _spectrum_matrix() -> Float[np.ndarray, "400 514"]:
    """Return the matrix of DC removal, pre-emphasis, Povey window and DFT: real parts, then imaginary parts."""
    n = np.arange(FRAME_SAMPLES)
    remove_mean = np.eye(FRAME_SAMPLES) - 1.0 / FRAME_SAMPLES
    preemphasise = np.eye(FRAME_SAMPLES) - PREEMPHASIS * np.eye(FRAME_SAMPLES, k=1)
    preemphasise[0, 0] = 1.0 - PREEMPHASIS  # the first sample is its own predecessor
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / (FRAME_SAMPLES - 1))) ** 0.85
    turns = np.outer(n, np.arange(FFT_SAMPLES // 2 + 1)) % FFT_SAMPLES / FFT_SAMPLES
    fourier = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)], axis=1)
    return remove_mean @ preemphasise @ (window[:, None] * fourier)


def _slices(x: jax.Array | np.ndarray) -> list:
    """Split |x| <= 1 into integers of at most 8 bits: x is the sum of slice[i] * 2^-(7 + 8 i), up to a small rest.

    Every step is exact in the precision of x: scaling by powers of two, rounding, and subtracting the rounded value.
    """
    numpy = np if isinstance(x, np.ndarray) else jnp
    out = []
    rest = x * 2.0 ** (_SLICE_BITS - 1)
    for _ in range(_SLICES):
        out.append(numpy.round(rest))
        rest = (rest - out[-1]) * 2.0**_SLICE_BITS
    return out


@cache
def _spectrum_slices() -> tuple[list[Float[np.ndarray, "400 514"]], float]:
    """Return the slices of the matrix and their scale, a power of two."""
    matrix = _spectrum_matrix()
    scale = 2.0 ** np.ceil(np.log2(np.abs(matrix).max()))
    return [part.astype(np.float32) for part in _slices(matrix / scale)], float(scale)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rounded sum a + b and its rounding error (Knuth's TwoSum)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


@jax.custom_jvp
def _spectrum(frames: Float[Array, "batch frames 400"]) -> Float[Array, "batch frames 514"]:
    """Compute frames @ _spectrum_matrix(), as exact as if computed in 40 bits and then rounded to float32."""
    peak = jnp.abs(frames).max(axis=-1, keepdims=True)
    _, exponent = jnp.frexp(peak)
    cut = _slices(jnp.ldexp(frames, -exponent))
    matrix, matrix_scale = _spectrum_slices()
    total = lost = jnp.float32(0)
    for order in range(_SLICES):
        # All products of slices i and j with i + j == order have the same scale, 2^-(14 + 8 order).
        left = jnp.concatenate(cut[: order + 1], axis=-1)
        right = jnp.concatenate([jnp.asarray(part) for part in matrix[order::-1]])
        product = jnp.einsum("bfi,io->bfo", left, right, preferred_element_type=jnp.float32)
        total, rounding = _two_sum(total, product * 2.0 ** -(2 * (_SLICE_BITS - 1) + _SLICE_BITS * order))
        lost = lost + rounding
    return jnp.ldexp((total + lost) * matrix_scale, exponent)


@_spectrum.defjvp
def _spectrum_change(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Apply the matrix to the tangents. Differentiating through the slices would give the derivative of rounding, 0."""
    matrix = jnp.asarray(_spectrum_matrix(), jnp.float32)
    return _spectrum(*primals), jnp.einsum("bfi,io->bfo", *tangents, matrix, precision="highest")


@jax.jit
def fbank_energies(waveforms: Float[Array, "batch samples"]) -> Float[Array, "batch frames 80"]:
    """Compute log mel energies.

    Args:
        waveforms: Samples at 16 kHz in [-1, 1].

    Returns:
        Natural logarithms of the energies, (batch, 1 + (samples - 400) // 160, 80), float32.
    """
    batch, samples = waveforms.shape
    count = fbank_frames(samples)
    padded = jnp.pad(waveforms * WAVEFORM_SCALE, ((0, 0), (0, max(0, (count + 2) * HOP_SAMPLES - samples))))
    hops = padded[:, : (count + 2) * HOP_SAMPLES].reshape(batch, count + 2, HOP_SAMPLES)
    frames = jnp.concatenate([hops[:, :-2], hops[:, 1:-1], hops[:, 2:, : FRAME_SAMPLES - 2 * HOP_SAMPLES]], axis=-1)
    real, imaginary = jnp.split(_spectrum(frames), 2, axis=-1)
    filters = jnp.asarray(_mel_filters(), jnp.float32)
    mel = jnp.einsum("bfi,im->bfm", real**2 + imaginary**2, filters, precision="highest")
    return jnp.log(jnp.maximum(mel, MEL_FLOOR))


def _statistics(mel: Float[Array, "batch frames 80"], valid: Bool[Array, "batch frames"]) -> MelStatistics:
    """Compute the mean and the deviation (ddof 1, variance + 1e-7) over the valid frames."""
    weight = valid[..., None].astype(jnp.float32)
    count = weight.sum(axis=1)
    # The second pass removes the rounding error of the first mean. A constant bin has the deviation sqrt(1e-7), so an
    # error in the last digit of its mean would be visible.
    mean = (mel * weight).sum(axis=1) / count
    mean = mean + ((mel - mean[:, None]) * weight).sum(axis=1) / count
    variance = ((mel - mean[:, None]) ** 2 * weight).sum(axis=1) / (count - 1)
    return MelStatistics(mean, jnp.sqrt(variance + VARIANCE_FLOOR))


@partial(jax.jit, static_argnames="padding_value")
def features(
    waveforms: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    *,
    padding_value: float = 0.0,
    statistics: MelStatistics | None = None,
) -> tuple[Float[Array, "batch frames 160"], Bool[Array, "batch frames"]]:
    """Compute the features of a padded batch of waveforms.

    Args:
        waveforms: Samples at 16 kHz in [-1, 1].
        lengths: Number of valid samples in each row, at least 560. These are two frames; one frame has no variance.
        padding_value: Value of the features after the end of a clip (static). It has no effect on a model, which zeroes
            masked frames; it serves comparisons with the original's features.
        statistics: Statistics to normalise by, for truncated recordings. By default each clip is normalised over its
            own frames.

    Returns:
        The features, (batch, frames, 160), float32, and their mask, (batch, frames). A feature frame is valid if the
        second of its two fbank frames is, as in the original.
    """
    mel = fbank_energies(waveforms)
    mel = jnp.pad(mel, ((0, 0), (0, mel.shape[1] % STACK_SIZE), (0, 0)))
    batch, frames, _ = mel.shape
    counts = 1 + (lengths - FRAME_SAMPLES) // HOP_SAMPLES
    valid = jnp.arange(frames, dtype=counts.dtype)[None] < counts[:, None]
    mean, deviation = _statistics(mel, valid) if statistics is None else statistics
    normal = (mel - mean[:, None]) / deviation[:, None]
    normal = jnp.where(valid[..., None], normal, padding_value)
    return normal.reshape(batch, frames // STACK_SIZE, FEATURE_DIM), valid[:, STACK_SIZE - 1 :: STACK_SIZE]


def read_clip(source: AudioSource) -> Clip:
    """Read a recording for the model, in memory that does not grow with its length.

    Args:
        source: A recording, as for `waveform.blocks`.

    Returns:
        The recording, truncated to 160 s.

    Raises:
        InvalidInput: The recording is silent, too short or otherwise unusable.
        UnreadableInput: The file is missing or broken.
    """
    stream = blocks(source, MAX_SAMPLES)
    first = next(stream)
    second = next(stream, None)
    if second is None:
        return Clip(first, len(first), None)
    whole = _RunningStatistics()
    samples = 0
    for block in chain([first, second], stream):
        whole.add(block)
        samples += len(block)
    return Clip(first, samples, whole.statistics())


def pad_clips(
    clips: Sequence[Clip], frames: int
) -> tuple[Float[np.ndarray, "batch samples"], Int[np.ndarray, " batch"], MelStatistics | None]:
    """Pad clips to a batch for `features`.

    Args:
        clips: The clips. Either all or none of them are truncated.
        frames: Feature frames to pad to.

    Returns:
        The waveforms, zero-padded, float32; the number of valid samples of each, int32; and the statistics of
        truncated clips, else None.
    """
    waveforms = np.zeros((len(clips), samples_for(frames)), np.float32)
    for row, clip in enumerate(clips):
        waveforms[row, : len(clip.waveform)] = clip.waveform[: waveforms.shape[1]]
    lengths = np.array([len(clip.waveform) for clip in clips], np.int32)
    whole = [clip.statistics for clip in clips if clip.statistics is not None]
    return waveforms, lengths, MelStatistics(*map(np.concatenate, zip(*whole, strict=True))) if whole else None


class _RunningStatistics:
    """Accumulates the mean and variance of the mel bins over blocks of a recording (Chan et al. 1979) in float64."""

    def __init__(self) -> None:
        self.tail = np.zeros(0, np.float32)  # samples of the next, still incomplete frames
        self.count = 0
        self.mean = np.zeros(MEL_BINS)
        self.squares = np.zeros(MEL_BINS)

    def add(self, block: Float[np.ndarray, " samples"]) -> None:
        """Add the next block, at most MAX_SAMPLES."""
        waveform = np.concatenate([self.tail, block])
        count = fbank_frames(len(waveform))
        self.tail = waveform[count * HOP_SAMPLES :]
        if count == 0:
            return
        padded = np.zeros((1, MAX_SAMPLES + FRAME_SAMPLES), np.float32)  # a single shape, so that it is compiled once
        padded[0, : len(waveform)] = waveform
        mel = np.asarray(fbank_energies(padded))[0, :count].astype(np.float64)
        mean = mel.mean(axis=0)
        change, total = mean - self.mean, self.count + count
        self.squares += ((mel - mean) ** 2).sum(axis=0) + change**2 * (self.count * count / total)
        self.mean += change * (count / total)
        self.count = total

    def statistics(self) -> MelStatistics:
        """Return the statistics of all blocks, with a batch axis of 1."""
        deviation = np.sqrt(self.squares / (self.count - 1) + VARIANCE_FLOOR)
        return MelStatistics(self.mean.astype(np.float32)[None], deviation.astype(np.float32)[None])
