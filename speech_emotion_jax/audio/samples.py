"""Samples of any type as float32, and arrays of them with a rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .libsndfile import READ_VALUES
from .sources import Cut

# Only a wrong order of the axes or a broken header exceeds these limits.
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 1_000_000


def as_float32(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float32 with full scale 1, as libsndfile does. Unsigned bytes are offset binary."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    with np.errstate(all="ignore"):  # float64 that overflows float32 becomes infinite and is refused later
        return samples.astype(np.float32)


def array_frames(source: Mapping[str, Any], cut: Cut, name: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Check an array and its rate, and yield the samples of a cut of it.

    Args:
        source: {"array": ndarray, "sampling_rate": hertz}.
        cut: The part.
        name: Name of the source in messages.

    Yields:
        Triples of a position in frames, the rate, and the samples there.

    Raises:
        InvalidInput: The array, its rate or the cut is invalid.
    """
    array: np.ndarray = source["array"]
    rate: Any = source.get("sampling_rate")
    real = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not real or not MIN_RATE <= rate <= MAX_RATE or rate % 1:
        raise InvalidInput(
            f'{name} has the sampling rate {rate!r}; pass whole hertz, {MIN_RATE} to {MAX_RATE}, as "sampling_rate"'
        )
    if array.ndim not in (1, 2):
        raise InvalidInput(f"{name} has {array.ndim} axes; pass (samples,) or (channels, samples)")
    channels = np.atleast_2d(np.asarray(array))
    if len(channels) > MAX_CHANNELS:
        raise InvalidInput(f"{name} has {len(channels)} channels; the order is (channels, samples): transpose it")
    if array.dtype.kind != "f" and array.dtype not in (np.int8, np.int16, np.int32, np.uint8):
        raise InvalidInput(f"{name} holds {array.dtype}; convert it to floats in [-1, 1], int8, int16, int32 or uint8")
    if channels.size:
        cut.check_within(channels.shape[1], int(rate), name)
        first, last = cut.frames(int(rate))
        last = min(last, channels.shape[1])
        step = READ_VALUES // len(channels)
        for start in range(first, last, step):
            yield start, int(rate), as_float32(channels[:, start : min(start + step, last)].T)
