"""Inputs of the benchmarks: features, recordings and texts made from seeds, as long as real ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from ..audio import FEATURE_DIM, SAMPLE_RATE

SENTENCE = "no me lo puedo creer de verdad que alegría tan grande nos da verte hoy aquí con toda la familia"
WORDS = tuple(SENTENCE.split())
TOKENS_A_SECOND = 3.7  # of Spanish MEACorpus: 2.83 words a second, about 1.3 tokens a word
# Seconds of its 5,129 clips: the shortest, those that 5, 10, ... 95 % are shorter than, and the longest.
# fmt: off
MEACORPUS_SECONDS = (
    2.47, 3.58, 4.63, 5.51, 6.07, 6.64, 7.16, 7.67, 8.22, 8.79, 9.33,
    9.83, 10.42, 11.0, 11.27, 11.97, 12.6, 13.22, 13.83, 14.42, 14.99,
)
# fmt: on


def random_features(frames: int) -> Float[np.ndarray, "1 frames 160"]:
    """Features of one clip: of mean 0 and variance 1, as normalised ones are."""
    return np.random.default_rng(frames).standard_normal((1, frames, FEATURE_DIM), np.float32)


def meacorpus_lengths(clips: int) -> list[float]:
    """Seconds of so many clips, ascending, one from each equal part of the corpus's distribution."""
    shares = (np.arange(clips) + 0.5) / clips
    steps = np.linspace(0, 1, len(MEACORPUS_SECONDS))
    return [round(float(each), 2) for each in np.interp(shares, steps, MEACORPUS_SECONDS)]


def text_of(seconds: float) -> str:
    """As many words as there are tokens in so many seconds of speech; each is one token of a random checkpoint."""
    return " ".join(islice(cycle(WORDS), tokens_of(seconds) - 2))


def tokens_of(seconds: float) -> int:
    """How many tokens that text has, with [CLS] and [SEP]."""
    return min(512, 2 + max(1, round(TOKENS_A_SECOND * seconds)))


def write_clips(folder: Path, lengths: Sequence[float]) -> list[Path]:
    """A recording of each length in seconds: noise that grows and fades four times a second, as syllables do."""
    paths = []
    for number, seconds in enumerate(lengths):
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        noise = np.random.default_rng(number).standard_normal(len(time))
        path = folder / f"{number:03}.wav"
        soundfile.write(path, 0.1 * noise * (0.6 + 0.4 * np.sin(8 * np.pi * time)), SAMPLE_RATE)
        paths.append(path)
    return paths
