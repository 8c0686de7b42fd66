"""A stage of the original, as ours is held against it: whole, or what a golden keeps of it.

A golden keeps some values at even distances, and checksums that tolerate rounding: sums of all values with random
signs. The sums of two arrays differ as the arrays do: over many choices of signs, the mean square of what they differ
by is the sum of the squared differences (Alon, Matias, Szegedy 1996). So a difference anywhere is seen.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from .difference import Difference, difference, scale_of
from .stages import StageArray

SUMS = 16  # the estimate is then good to a fifth or so
VALUES = 32  # of each axis
_MEAN_OF_ROOT_MEAN_SQUARE = math.sqrt(2 / math.pi)  # of what is normally distributed


class FullActivation(NamedTuple):
    """All of a stage."""

    stage: str
    values: StageArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def compare(self, ours: StageArray) -> Difference:
        """How far ours, of the same shape, is from it."""
        return difference(ours, self.values, scale_of(self.stage, self.values))


class SampledActivation(NamedTuple):
    """Some values of a stage of that shape and scale, and the sums of all with random signs."""

    shape: tuple[int, ...]
    scale: float
    values: StageArray
    sums: Float[np.ndarray, " sums"]

    @classmethod
    def of(cls, stage: str, array: StageArray) -> SampledActivation:
        """What is kept of a stage."""
        return cls(array.shape, scale_of(stage, array), _some(array), _signed_sums(array))

    def compare(self, ours: StageArray) -> Difference:
        """The largest difference, gain and cosine are those of the values, the mean one is that of all, estimated."""
        of_values = difference(_some(ours), self.values, self.scale)
        if self.values.size == ours.size:
            return of_values
        square = float(np.mean((_signed_sums(ours) - self.sums) ** 2)) / ours.size
        return of_values._replace(mean=_MEAN_OF_ROOT_MEAN_SQUARE * math.sqrt(square) / self.scale)


def sha256(array: StageArray) -> str:
    """Of the bytes of an array, by which two runs of the original can be told apart."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _some(array: StageArray) -> StageArray:
    """At most VALUES of each axis, at even distances, the first and last ones among them."""
    picked = [np.unique(np.linspace(0, size - 1, min(size, VALUES)).astype(int)) for size in array.shape]
    return np.ascontiguousarray(array[np.ix_(*picked)])


def _signed_sums(array: StageArray) -> Float[np.ndarray, " sums"]:
    values = np.asarray(array, np.float64).ravel()
    return np.array([values @ (2.0 * _bits(number, values.size) - 1.0) for number in range(SUMS)])


def _bits(seed: int, count: int) -> UInt8[np.ndarray, " count"]:
    """Random bits that are the same with every version of NumPy, which promises that of its generators' raw numbers."""
    raw = np.random.PCG64(seed).random_raw(-(-count // 64)).astype("<u8")
    return np.unpackbits(raw.view(np.uint8), count=count)
