"""Draw the waveform and the stacked probabilities as paths of SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..audio import SAMPLE_RATE, AudioSource, read_windows
from .units import TimelineUnit

BIN = 400  # samples at 16 kHz, 25 ms
POINTS = 3_000  # of the waveform at most, whatever the length of the recording


def waveform_path(source: AudioSource) -> tuple[float, str]:
    """Return the duration of a recording and its envelope, in memory that does not grow with the samples.

    Returns:
        The seconds, and a path in a box from (0, -1) to (number of points, 1), scaled to the loudest sample.
    """
    samples, lows, highs = 0, [], []
    for window in read_windows(source, 10 * SAMPLE_RATE, 0, 0):
        samples += len(window.waveform)
        starts = np.arange(0, len(window.waveform), BIN)
        lows.append(np.minimum.reduceat(window.waveform, starts))
        highs.append(np.maximum.reduceat(window.waveform, starts))
    low, high = np.concatenate(lows), np.concatenate(highs)
    starts = np.arange(0, len(low), -(-len(low) // POINTS))
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    peak = max(float(np.abs([low, high]).max()), 1e-4)
    places = POINTS * np.arange(len(low)) / len(low)
    upper = [f"{place:.0f} {-value:.2f}" for place, value in zip(places, high / peak, strict=True)]
    lower = [f"{place:.0f} {-value:.2f}" for place, value in zip(places, low / peak, strict=True)]
    return samples / SAMPLE_RATE, "M" + "L".join([*upper, *lower[::-1]]) + "Z"


def stacked_paths(spans: Sequence[tuple[float, float, TimelineUnit]], labels: Sequence[str]) -> list[str]:
    """Return for each label a path of its probabilities, stacked on those before it.

    Args:
        spans: Start, end and unit, as `document.spans` gives them.
        labels: The labels from the bottom up.

    Returns:
        Paths in a box from (0, 0) to (milliseconds, 1000), with the origin at the top. Empty without scored units.
    """
    paths = ["" for _ in labels]
    for start, end, unit in spans:
        if unit["probabilities"] is not None:
            values = np.array([unit["probabilities"][label] for label in labels])
            total = max(1.0, values.sum())  # Those of a multi-label checkpoint may add up to more than 1.
            heights = 1000 - 1000 * np.concatenate([[0], np.cumsum(values)]) / total
            for index in range(len(labels)):
                bottom, top = f"{heights[index]:.0f}", f"{heights[index + 1]:.0f}"
                if bottom != top:
                    paths[index] += f"M{1000 * start:.0f} {bottom}H{1000 * end:.0f}V{top}H{1000 * start:.0f}Z"
    return paths
