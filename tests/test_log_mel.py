"""Log-mel energies: what they are of sounds that one can tell it of. Parity with transformers' is tested elsewhere."""

import numpy as np
import pytest

from speech_emotion_jax.audio.log_mel import HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES, mel_filters, whisper_log_mel

RATE = 16_000
SILENCE = -1.5  # (log10(1e-10) + 4) / 4
DECADE = 0.25  # a tenfold power

BINS = pytest.mark.parametrize("bins", [80, 128])


def noise(samples: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def tone(hertz: float, samples: int, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def energies(*waveforms: np.ndarray, bins: int = 80) -> np.ndarray:
    return np.asarray(whisper_log_mel(np.stack(waveforms), bins=bins))


@BINS
def test_a_window_has_3000_frames(bins: int):
    values = energies(noise(WINDOW_SAMPLES), noise(WINDOW_SAMPLES, seed=1), bins=bins)
    assert values.shape == (2, WINDOW_FRAMES, bins)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@BINS
@pytest.mark.parametrize("level", [0.0, 1e-7])
def test_silence_is_all_one_value(bins: int, level: float):
    np.testing.assert_array_equal(energies(noise(16_000, level), bins=bins), np.float32(SILENCE))


def test_no_value_lies_more_than_80_decibels_below_the_loudest():
    quiet = noise(32_000, 1e-7)
    quiet[:4_000] = noise(4_000, 0.5)
    values = energies(quiet)
    assert values.max() - values.min() == pytest.approx(8 * DECADE, abs=1e-5)
    assert (values[0, 40:] == values.min()).all()


@pytest.mark.parametrize("factor", [0.1, 0.03, 3.0])
def test_loudness_moves_all_values_alike(factor: float):
    clip = noise(16_000)
    moved = energies(np.float32(factor) * clip) - energies(clip)
    np.testing.assert_allclose(moved, 2 * DECADE * np.log10(factor), atol=1e-5)


@BINS
@pytest.mark.parametrize("hertz", [150, 440, 1_000, 2_500, 6_000])
def test_a_tone_is_loudest_in_its_own_band(bins: int, hertz: float):
    values = energies(tone(hertz, 16_000), bins=bins)[0, 10:-10]
    filters = mel_filters(bins)
    best = filters[round(hertz / 40)].argmax()  # of the bands at the nearest of the spectrum's frequencies
    assert (np.abs(values.argmax(axis=1) - best) <= 1).all()


def test_the_bands_have_the_same_area():
    """That of a triangle of area 1 whose base is in hertz; the spectrum has a value every 40 Hz."""
    np.testing.assert_allclose(mel_filters(80).sum(axis=0) * 40, 1, rtol=0.1)
    assert (mel_filters(128) >= 0).all()
    assert (mel_filters(128).max(axis=0) > 0).all()


def test_frames_stand_10_ms_apart_and_hear_25_ms():
    clip = np.zeros(32_000, np.float32)
    place = 16_000
    clip[place] = 1.0
    values = energies(clip)[0]
    loud = np.flatnonzero(values.max(axis=1) > values.min())
    # Frame n hears 200 samples before and after sample 160 n.
    assert list(loud) == [place // HOP_SAMPLES - 1, place // HOP_SAMPLES, place // HOP_SAMPLES + 1]


def test_padding_changes_no_frame_before_it():
    clip = noise(16_000)
    short, long = (energies(np.pad(clip, (0, more)))[0] for more in (8_000, WINDOW_SAMPLES - 16_000))
    ends = 16_000 // HOP_SAMPLES + 2
    np.testing.assert_allclose(short[:ends], long[:ends], atol=2e-6)
    assert (long[ends:] == long.min()).all()


def test_a_row_does_not_depend_on_the_others():
    clips = [noise(16_000, level, seed) for seed, level in enumerate((0.5, 1e-3, 0.0))]
    together = energies(*clips)
    for row, each in zip(together, clips, strict=True):
        np.testing.assert_allclose(row, energies(each)[0], atol=2e-6)
