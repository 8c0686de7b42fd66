"""What is done to the waveform of a training clip: a random part of it, another speed, white noise."""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

from ..audio import MIN_SAMPLES, SAMPLE_RATE
from .recipe import AugmentConfig


def random_crop(
    waveform: Float[np.ndarray, " samples"], max_seconds: float, rng: np.random.Generator
) -> Float[np.ndarray, " fewer_samples"]:
    """A random part of at most max_seconds, each start equally likely; a shorter clip as it is."""
    length = max(round(max_seconds * SAMPLE_RATE), MIN_SAMPLES)
    if len(waveform) <= length:
        return waveform
    start = rng.integers(len(waveform) - length, endpoint=True)
    return waveform[start : start + length]


def augment_waveform(
    waveform: Float[np.ndarray, " samples"], settings: AugmentConfig, rng: np.random.Generator
) -> Float[np.ndarray, " other_samples"]:
    """The clip (samples,) float32, 16 kHz, at another speed and, by chance, with noise; the argument is left alone.

    Speed s, drawn evenly from 1 - speed to 1 + speed, is resampling: round(samples / s) samples, and the pitch changes
    with the tempo. At s < 1 the clip grows, so crop afterwards. No clip is sped up to fewer than MIN_SAMPLES (560).
    White noise is added with probability `noise`, its power under the clip's mean square by a ratio drawn evenly from
    snr_low to snr_high dB.
    """
    if settings.speed:
        waveform = _at_speed(waveform, rng.uniform(1 - settings.speed, 1 + settings.speed))
    if settings.noise and rng.random() < settings.noise:
        waveform = _noisy(waveform, rng.uniform(settings.snr_low, settings.snr_high), rng)
    return waveform


def _at_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    fastest = len(waveform) / min(len(waveform), MIN_SAMPLES)
    speed = min(speed, fastest)
    length = round(len(waveform) / speed)
    resampled = soxr.resample(waveform, speed * SAMPLE_RATE, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))  # soxr may round to a sample less


def _noisy(waveform: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    power = np.mean(np.square(waveform, dtype=np.float64))
    scale = np.float32(np.sqrt(power * 10 ** (-decibels / 10)))
    return waveform + scale * rng.standard_normal(len(waveform), dtype=np.float32)
