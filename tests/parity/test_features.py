"""Features against transformers' SeamlessM4TFeatureExtractor, whose FFT is float64."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SeamlessM4TFeatureExtractor

from speech_emotion_jax.audio import fbank as room
from speech_emotion_jax.audio.fbank import (
    MAX_FBANK_FRAMES,
    MelStatistics,
    fbank_frames,
    feature_frames,
    features,
    read_clip,
    samples_for,
)

from ..support.budgets import FEATURE_BUDGET
from ..support.examples import examples

ORIGINAL = {value: SeamlessM4TFeatureExtractor(padding_value=value) for value in (0.0, 1.0)}


def original(waveform: np.ndarray, padding_value: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """As the toolkit calls it."""
    output = ORIGINAL[padding_value](
        waveform, sampling_rate=16_000, max_length=16_000, truncation=True, return_tensors="np"
    )
    return output["input_features"][0], output["attention_mask"][0].astype(bool)


def ours(
    waveform: np.ndarray, padding_value: float = 1.0, extra_frames: int = 0, statistics: MelStatistics | None = None
) -> tuple[np.ndarray, np.ndarray]:
    samples = samples_for(feature_frames(len(waveform)) + extra_frames)
    padded = np.zeros((1, samples), np.float32)
    padded[0, : len(waveform)] = waveform[:samples]
    lengths = np.array([len(waveform)], np.int32)
    out, mask = features(padded, lengths, padding_value=padding_value, statistics=statistics)
    return np.asarray(out)[0], np.asarray(mask)[0]


def noise(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Noise with a slowly moving loudness, as speech has it."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate)
    return (rng.normal(size=n) * (0.1 + 0.09 * np.sin(np.arange(n) / (0.3 * rate)))).astype(np.float32)


WAVEFORMS = {
    "0.3 s": noise(0.3),
    "5 s": noise(5),
    "31 s": noise(31),
    "two frames": noise(0.035),
    "odd number of frames": noise((400 + 10 * 160) / 16_000),
    "telephone, 0.3 s": soxr.resample(noise(0.3, 8_000), 8_000, 16_000, quality="HQ"),
    "telephone, 5 s": soxr.resample(noise(5, 8_000), 8_000, 16_000, quality="HQ"),
    "telephone, 31 s": soxr.resample(noise(31, 8_000), 8_000, 16_000, quality="HQ"),
    "4 kHz source": soxr.resample(noise(5, 4_000), 4_000, 16_000, quality="HQ"),
    "16 bit": (noise(5) * 32767).round().astype(np.float32) / 32768,
    "very quiet": noise(5) * 1e-5,
    "silence around it": np.concatenate([np.zeros(16_000, np.float32), noise(2), np.zeros(16_000, np.float32)]),
}
# Each length is a program of its own, which takes seconds to compile; the default run has one length.
NAMES = [
    name if len(waveform) == 80_000 else pytest.param(name, marks=pytest.mark.slow)
    for name, waveform in WAVEFORMS.items()
]


def test_mel_filters_are_the_original_s():
    assert np.abs(room._mel_filters() - ORIGINAL[0.0].mel_filters).max() < 1e-12


@pytest.mark.parametrize("padding_value", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_parity(name, padding_value):
    theirs, their_mask = original(WAVEFORMS[name], padding_value)
    out, mask = ours(WAVEFORMS[name], padding_value)
    assert (mask == their_mask).all()
    assert out.shape == theirs.shape
    assert np.abs(out - theirs).max() <= FEATURE_BUDGET


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    alone, mask = ours(WAVEFORMS[name])
    padded, padded_mask = ours(WAVEFORMS[name], extra_frames=37)
    assert (padded_mask[: len(mask)] == mask).all()
    assert not padded_mask[len(mask) :].any()
    assert np.abs(padded[: len(alone)] - alone).max() <= 1e-4
    assert (padded[len(alone) :] == 1.0).all()


def test_a_batch_normalises_each_clip_over_its_own_frames():
    clips = [WAVEFORMS[name] for name in ("0.3 s", "5 s", "odd number of frames", "telephone, 5 s")]
    padded = np.zeros((len(clips), samples_for(256)), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    lengths = np.array([len(clip) for clip in clips], np.int32)
    batch, mask = features(padded, lengths, padding_value=1.0)
    for row, row_mask, clip in zip(batch, mask, clips, strict=True):
        theirs, their_mask = original(clip)
        assert int(row_mask.sum()) == their_mask.sum()
        assert np.abs(np.asarray(row)[: len(theirs)] - theirs).max() <= FEATURE_BUDGET


def test_a_constant_bin_becomes_zero():
    """Where the original divides its rounding error by sqrt(1e-7)."""
    quiet = np.zeros(16_000, np.float32)
    quiet[::160] = 0.5  # every frame is the same, so every bin is constant
    out, _ = ours(quiet)
    assert np.abs(out).max() < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [160.05, 325])
def test_a_long_recording_is_normalised_whole_and_then_cut(seconds):
    waveform = noise(seconds) * np.linspace(1, 0.1, int(seconds * 16_000), dtype=np.float32)
    clip = read_clip({"array": waveform, "sampling_rate": 16_000})
    assert clip.truncated
    assert clip.samples == len(waveform)
    out, mask = ours(clip.waveform, statistics=clip.statistics)
    theirs, their_mask = original(waveform)
    assert len(theirs) == MAX_FBANK_FRAMES // 2 == len(out)
    assert (mask == their_mask).all()
    assert np.abs(out - theirs).max() <= FEATURE_BUDGET


@pytest.mark.slow
def test_160_seconds_are_not_cut():
    clip = read_clip({"array": noise(160), "sampling_rate": 16_000})
    assert not clip.truncated
    theirs, _ = original(clip.waveform)
    assert np.abs(ours(clip.waveform)[0] - theirs).max() <= FEATURE_BUDGET


@given(samples=st.integers(560, 3_000_000))
def test_frame_counts(samples):
    frames = fbank_frames(samples)
    assert 400 + (frames - 1) * 160 <= samples < 400 + frames * 160
    assert feature_frames(samples) == min(8_000, (frames + 1) // 2)
    assert fbank_frames(samples_for(feature_frames(samples))) == 2 * feature_frames(samples)


@settings(max_examples=examples(25))
@given(
    amplitudes=st.lists(st.floats(1e-4, 1), min_size=2, max_size=4),
    hertz=st.floats(50, 7_900),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_mixture_of_tone_and_noise(amplitudes, hertz, seed):
    time = np.arange(16_000) / 16_000
    tone = np.interp(time, np.linspace(0, 1, len(amplitudes)), amplitudes) * np.sin(2 * np.pi * hertz * time)
    waveform = (0.5 * tone + 1e-3 * np.random.default_rng(seed).normal(size=time.size)).astype(np.float32)
    theirs, _ = original(waveform)
    # A steady tone makes bins that hardly move. The original rounds their logarithms to float32, too, and then divides
    # by their deviation: that much its own features are uncertain.
    mel = ORIGINAL[1.0]._extract_fbank_features(waveform)
    uncertain = 4 * np.finfo(np.float32).eps * np.abs(mel).max(axis=0) / np.sqrt(mel.var(axis=0, ddof=1) + 1e-7)
    assert (np.abs(ours(waveform)[0] - theirs) <= np.tile(np.maximum(uncertain, FEATURE_BUDGET), 2)).all()
