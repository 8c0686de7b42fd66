"""Random parts, speeds and noise, on any waveform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio.waveform import MIN_SAMPLES, SAMPLE_RATE
from speech_emotion_jax.training.augment import augment_waveform, random_crop
from speech_emotion_jax.training.recipe import AugmentConfig

from .support.examples import examples

SEEDS = st.integers(0, 2**32 - 1)
SAMPLES = st.integers(MIN_SAMPLES, 20_000)


def waveform_of(samples: int, seed: int, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@given(SAMPLES, SEEDS, st.floats(0.035, 2.0))
def test_a_crop_is_a_part_of_the_clip(samples: int, seed: int, max_seconds: float) -> None:
    clip = np.arange(samples, dtype=np.float32)
    part = random_crop(clip, max_seconds, np.random.default_rng(seed))
    assert len(part) == min(samples, max(round(max_seconds * SAMPLE_RATE), MIN_SAMPLES))
    np.testing.assert_array_equal(part, clip[int(part[0]) : int(part[0]) + len(part)])


def test_every_start_of_a_crop_is_as_likely() -> None:
    clip, rng = np.arange(1003, dtype=np.float32), np.random.default_rng(0)
    starts = [int(random_crop(clip, 1000 / SAMPLE_RATE, rng)[0]) for _ in range(4000)]
    assert np.abs(np.bincount(starts, minlength=4) - 1000).max() < 150  # over five standard deviations


@given(SAMPLES, SEEDS, st.floats(0, 0.5), st.floats(0, 1))
def test_augmented_clips_keep_to_the_settings(samples: int, seed: int, speed: float, noise: float) -> None:
    clip = waveform_of(samples, seed)
    before = clip.copy()
    result = augment_waveform(clip, AugmentConfig(speed=speed, noise=noise), np.random.default_rng(seed))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert max(MIN_SAMPLES, samples / (1 + speed) - 1) <= len(result) <= samples / (1 - speed) + 1
    np.testing.assert_array_equal(clip, before)
    again = augment_waveform(clip, AugmentConfig(speed=speed, noise=noise), np.random.default_rng(seed))
    np.testing.assert_array_equal(result, again)


def test_without_settings_a_clip_is_as_it_was() -> None:
    clip = waveform_of(1000, 0)
    np.testing.assert_array_equal(augment_waveform(clip, AugmentConfig(), np.random.default_rng(0)), clip)


@settings(max_examples=examples(30))
@given(SEEDS, st.floats(0.05, 0.5))
def test_speed_moves_the_pitch_with_the_length(seed: int, speed: float) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    result = augment_waveform(tone, AugmentConfig(speed=speed), np.random.default_rng(seed))
    spectrum = np.abs(np.fft.rfft(result * np.hanning(len(result))))
    pitch = spectrum.argmax() * SAMPLE_RATE / len(result)
    assert pitch == pytest.approx(1000 * SAMPLE_RATE / len(result), abs=3)


def test_speeds_cover_their_range() -> None:
    clip, rng = waveform_of(10_000, 0), np.random.default_rng(1)
    speeds = [len(clip) / len(augment_waveform(clip, AugmentConfig(speed=0.2), rng)) for _ in range(300)]
    assert min(speeds) < 0.82
    assert max(speeds) > 1.18
    assert np.mean(speeds) == pytest.approx(1, abs=0.03)


@settings(max_examples=examples(30))
@given(SEEDS, st.floats(-10, 60), st.sampled_from([1e-4, 1.0, 1e10]))
def test_noise_stands_under_the_clip_by_its_ratio(seed: int, decibels: float, amplitude: float) -> None:
    clip = waveform_of(30_000, seed, amplitude)
    noisy = augment_waveform(
        clip, AugmentConfig(noise=1.0, snr_low=decibels, snr_high=decibels), np.random.default_rng([seed, 1])
    ).astype(np.float64)
    noise = noisy - clip
    ratio = 10 * np.log10(np.mean(np.square(clip, dtype=np.float64)) / np.mean(noise**2))
    assert ratio == pytest.approx(decibels, abs=0.3)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03  # white


def test_noise_comes_as_often_as_it_is_asked_for() -> None:
    clip, rng = waveform_of(600, 0), np.random.default_rng(2)
    noisy = sum((augment_waveform(clip, AugmentConfig(noise=0.3), rng) != clip).any() for _ in range(1000))
    assert 230 < noisy < 370


def test_silence_gets_no_noise() -> None:
    clip = np.zeros(1000, np.float32)
    np.testing.assert_array_equal(augment_waveform(clip, AugmentConfig(noise=1.0), np.random.default_rng(0)), clip)
