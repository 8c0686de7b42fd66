"""Log-mel features against both paths of transformers' WhisperFeatureExtractor: numpy (FFT in float64) and torch."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from speech_emotion_jax.audio.log_mel import SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SAMPLES, mel_filters, whisper_log_mel
from speech_emotion_jax.audio.waveform import load

from ..support.examples import examples

DEMO = Path(str(files("speech_emotion_jax") / "demo_data"))
BINS = (80, 128)
ORIGINAL = {bins: WhisperFeatureExtractor(feature_size=bins) for bins in BINS}

# Absolute; features are about -1.5 to 1.5. What differs are cells just above the floor, 80 dB below the loudest one: a
# sum of 200 float32 products does not resolve them better beside one loud frequency.
SPEECH_BUDGET = 5e-5
SOUND_BUDGET = 5e-4
TONE_BUDGET = 5e-3
MEAN_BUDGET = 2e-5  # of the mean difference, whatever the sound


def noise(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Noise with a slowly moving loudness, as speech has it."""
    n = int(seconds * rate)
    loudness = 0.1 + 0.09 * np.sin(np.arange(n) / (0.3 * rate))
    return (np.random.default_rng(0).normal(size=n) * loudness).astype(np.float32)


def telephone(seconds: float) -> np.ndarray:
    """Noise from 8 kHz, whose upper half of the spectrum is empty."""
    return soxr.resample(noise(seconds, 8_000), 8_000, SAMPLE_RATE, quality="HQ")


TIME = np.arange(WINDOW_SAMPLES) / SAMPLE_RATE
SOUNDS = {
    "0.1 s": noise(0.1),
    "5 s": noise(5),
    "30 s": noise(30),
    "telephone, 5 s": telephone(5),
    "telephone, 30 s": telephone(30),
    "very quiet": noise(5) * 1e-5,
    "silence": np.zeros(SAMPLE_RATE, np.float32),
    "offset": noise(5) + 0.3,
    "tone": (0.9 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32),
    "chirp": (0.9 * np.sin(2 * np.pi * (100 * TIME + 120 * TIME**2))).astype(np.float32),
    "click": np.eye(1, WINDOW_SAMPLES, SAMPLE_RATE, dtype=np.float32)[0],
}


def padded(*waveforms: np.ndarray) -> np.ndarray:
    return np.stack([np.pad(waveform, (0, WINDOW_SAMPLES - len(waveform))) for waveform in waveforms])


def ours(waveforms: np.ndarray, bins: int) -> np.ndarray:
    return np.asarray(whisper_log_mel(waveforms, bins=bins))


def original(waveforms: np.ndarray, bins: int) -> np.ndarray:
    return np.stack(ORIGINAL[bins]._np_extract_fbank_features(waveforms, "cpu")).swapaxes(1, 2)


def assert_close(features: np.ndarray, theirs: np.ndarray, budget: float) -> None:
    assert features.shape == theirs.shape
    assert np.abs(features - theirs).max() <= budget
    assert np.abs(features - theirs).mean() <= MEAN_BUDGET


@pytest.mark.parametrize("bins", BINS)
def test_mel_filters_are_the_original_s(bins):
    assert np.abs(mel_filters(bins) - ORIGINAL[bins].mel_filters).max() < 1e-8  # the largest is 0.04


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("name", SOUNDS)
def test_any_sound(name, bins):
    waveforms = padded(SOUNDS[name])
    features = ours(waveforms, bins)
    assert features.shape == (1, WINDOW_FRAMES, bins)
    assert_close(features, original(waveforms, bins), SOUND_BUDGET)
    assert_close(features, ORIGINAL[bins]._torch_extract_fbank_features(waveforms).swapaxes(1, 2), SOUND_BUDGET)


@pytest.mark.parametrize("bins", BINS)
def test_speech_in_a_batch(bins):
    """As a user calls both; the floor of each clip is below its own maximum, whatever stands beside it."""
    clips = [load(path) for path in sorted(DEMO.glob("*.flac"))]
    clips[0] = clips[0] * 0.01
    features = ours(padded(*clips), bins)
    theirs = ORIGINAL[bins](clips, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features.swapaxes(1, 2)
    assert_close(features, theirs, SPEECH_BUDGET)
    assert_close(features, original(padded(*clips), bins), SPEECH_BUDGET)


@settings(max_examples=examples(15))
@given(
    hertz=st.floats(50, 7_900),
    loudness=st.floats(1e-3, 1),
    quiet=st.floats(0, 1e-2),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_mixture_of_tone_and_noise(hertz, loudness, quiet, seed):
    mixture = loudness * np.sin(2 * np.pi * hertz * TIME) + quiet * np.random.default_rng(seed).normal(size=TIME.size)
    waveforms = mixture.astype(np.float32)[None]
    assert_close(ours(waveforms, 80), original(waveforms, 80), TONE_BUDGET)
