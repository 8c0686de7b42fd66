"""The original's activations, either complete or sampled for a golden file.

A sampled activation holds evenly spaced values and a few sums of all values with random signs. Unlike a hash, such a
sum tolerates rounding: over random signs, the expected squared difference of two sums equals the sum of the squared
differences of the values (Alon, Matias, Szegedy 1996). So a difference anywhere in the array is seen.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from .difference import Difference, difference, scale_of
from .stages import StageArray

SUMS = 16  # estimates the mean difference to within about 20 %
VALUES = 32  # samples along each axis
_MEAN_OF_ROOT_MEAN_SQUARE = math.sqrt(2 / math.pi)  # E|x| / sqrt(E[x²]) of a normal distribution


class FullActivation(NamedTuple):
    """A complete activation of the original."""

    stage: str
    values: StageArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the activation."""
        return self.values.shape

    def compare(self, ours: StageArray) -> Difference:
        """Return the difference of ours, an array of the same shape, from this activation."""
        return difference(ours, self.values, scale_of(self.stage, self.values))


class SampledActivation(NamedTuple):
    """A sample of an activation.

    Attributes:
        shape: the shape of the complete activation.
        scale: its scale, see `difference.scale_of`.
        values: evenly spaced values, at most `VALUES` along each axis.
        sums: `SUMS` sums of all values with random signs.
    """

    shape: tuple[int, ...]
    scale: float
    values: StageArray
    sums: Float[np.ndarray, " sums"]

    @classmethod
    def of(cls, stage: str, array: StageArray) -> SampledActivation:
        """Sample the activation `array` of a stage."""
        return cls(array.shape, scale_of(stage, array), _sample(array), _signed_sums(array))

    def compare(self, ours: StageArray) -> Difference:
        """Return the difference of ours, an array of the complete shape, from this activation.

        The mean difference is estimated over all values, from the sums. The other numbers are those of the samples.
        """
        sampled = difference(_sample(ours), self.values, self.scale)
        if self.values.size == ours.size:
            return sampled
        square = float(np.mean((_signed_sums(ours) - self.sums) ** 2)) / ours.size
        return sampled._replace(mean=_MEAN_OF_ROOT_MEAN_SQUARE * math.sqrt(square) / self.scale)


def sha256(array: StageArray) -> str:
    """Return the SHA-256 of an array's bytes, which shows whether two runs of the original were identical."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _sample(array: StageArray) -> StageArray:
    """Return at most VALUES evenly spaced values along each axis, including the first and the last."""
    indices = [np.unique(np.linspace(0, size - 1, min(size, VALUES)).astype(int)) for size in array.shape]
    return np.ascontiguousarray(array[np.ix_(*indices)])


def _signed_sums(array: StageArray) -> Float[np.ndarray, " sums"]:
    values = np.asarray(array, np.float64).ravel()
    return np.array([values @ (2.0 * _bits(number, values.size) - 1.0) for number in range(SUMS)])


def _bits(seed: int, count: int) -> UInt8[np.ndarray, " count"]:
    """Return random bits that are the same in every version of NumPy.

    NumPy guarantees a stable stream only for the raw output of its bit generators.
    """
    raw = np.random.PCG64(seed).random_raw(-(-count // 64)).astype("<u8")
    return np.unpackbits(raw.view(np.uint8), count=count)
