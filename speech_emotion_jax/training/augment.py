"""Augment the waveform of a training clip: a random crop, another speed, white noise."""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

from ..audio import MIN_SAMPLES, SAMPLE_RATE
from .recipe import AugmentConfig


def random_crop(
    waveform: Float[np.ndarray, " samples"], max_seconds: float, rng: np.random.Generator
) -> Float[np.ndarray, " fewer_samples"]:
    """Return a random part of at most `max_seconds`, with every start equally likely. Shorter clips stay unchanged."""
    length = max(round(max_seconds * SAMPLE_RATE), MIN_SAMPLES)
    if len(waveform) <= length:
        return waveform
    start = rng.integers(len(waveform) - length, endpoint=True)
    return waveform[start : start + length]


def augment_waveform(
    waveform: Float[np.ndarray, " samples"], settings: AugmentConfig, rng: np.random.Generator
) -> Float[np.ndarray, " other_samples"]:
    """Change the speed of a clip and, with some probability, add white noise. The argument is not modified.

    The speed s is drawn uniformly from 1 - speed to 1 + speed. The clip is resampled to round(samples / s) samples,
    which changes the pitch with the tempo. At s < 1 the clip grows, so crop it afterwards. The speed is limited so
    that no clip falls below MIN_SAMPLES. Noise is added with probability `noise`; its power lies below the clip's mean
    square by a ratio drawn uniformly from snr_low to snr_high dB.

    Args:
        waveform: The clip, float32, 16 kHz.
        settings: The table [augment] of the recipe.
        rng: The random generator.
    """
    if settings.speed:
        waveform = _change_speed(waveform, rng.uniform(1 - settings.speed, 1 + settings.speed))
    if settings.noise and rng.random() < settings.noise:
        waveform = _add_noise(waveform, rng.uniform(settings.snr_low, settings.snr_high), rng)
    return waveform


def _change_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Resample the clip so that it plays at the speed."""
    fastest = len(waveform) / min(len(waveform), MIN_SAMPLES)
    speed = min(speed, fastest)
    length = round(len(waveform) / speed)
    resampled = soxr.resample(waveform, speed * SAMPLE_RATE, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))  # soxr may return one sample less


def _add_noise(waveform: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise at a signal-to-noise ratio in dB."""
    power = np.mean(np.square(waveform, dtype=np.float64))
    scale = np.float32(np.sqrt(power * 10 ** (-decibels / 10)))
    return waveform + scale * rng.standard_normal(len(waveform), dtype=np.float32)
