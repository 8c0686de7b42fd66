"""Synthetic inputs of the benchmarks: features, recordings and texts, made from seeds with realistic lengths."""

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
TOKENS_A_SECOND = 3.7  # Spanish MEACorpus has 2.83 words per second and about 1.3 tokens per word
MAX_TOKENS = 512  # the length to which the toolkit truncates and pads texts
# The quantiles of the durations of its 5,129 clips in seconds, at 0, 5, 10, ... 100 %.
# fmt: off
MEACORPUS_SECONDS = (
    2.47, 3.58, 4.63, 5.51, 6.07, 6.64, 7.16, 7.67, 8.22, 8.79, 9.33,
    9.83, 10.42, 11.0, 11.27, 11.97, 12.6, 13.22, 13.83, 14.42, 14.99,
)
# fmt: on


def random_features(frames: int) -> Float[np.ndarray, "1 frames 160"]:
    """Make the features of one clip, with mean 0 and variance 1 like normalised features."""
    return np.random.default_rng(frames).standard_normal((1, frames, FEATURE_DIM), np.float32)


def meacorpus_lengths(clips: int) -> list[float]:
    """Return the durations in seconds of so many clips, ascending, at evenly spaced quantiles of the corpus."""
    quantiles = (np.arange(clips) + 0.5) / clips
    steps = np.linspace(0, 1, len(MEACORPUS_SECONDS))
    return [round(float(each), 2) for each in np.interp(quantiles, steps, MEACORPUS_SECONDS)]


def make_text(seconds: float) -> str:
    """Make a text for so many seconds of speech. Each of its words is one token of a random checkpoint."""
    return " ".join(islice(cycle(WORDS), count_tokens(seconds) - 2))


def count_tokens(seconds: float) -> int:
    """Return how many tokens the text of `make_text` has, including [CLS] and [SEP]."""
    return min(MAX_TOKENS, 2 + max(1, round(TOKENS_A_SECOND * seconds)))


def write_clips(folder: Path, lengths: Sequence[float]) -> list[Path]:
    """Write a recording of each length.

    The recordings are noise whose volume rises and falls four times a second, like syllables.

    Args:
        folder: where the files are written.
        lengths: the durations in seconds.

    Returns:
        The paths of the recordings.
    """
    paths = []
    for number, seconds in enumerate(lengths):
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        noise = np.random.default_rng(number).standard_normal(len(time))
        path = folder / f"{number:03}.wav"
        soundfile.write(path, 0.1 * noise * (0.6 + 0.4 * np.sin(8 * np.pi * time)), SAMPLE_RATE)
        paths.append(path)
    return paths
