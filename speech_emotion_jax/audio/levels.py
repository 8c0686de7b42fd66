"""The levels of a recording: what its mix-down loses, and whether its scale is right."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float

from ..errors import InvalidInput

# The mean of n channels is expected to have 1/n of the amplitude of the loudest one, or more. It has less than this
# fraction of that only if channels cancel each other.
CANCELLED = 0.2
CONSTANT = 1e-9  # the variance of equal samples is below this fraction of their power, by rounding
BEYOND_FULL_SCALE = 10  # no recording of floats exceeds full scale by so much


class Levels:
    """The levels of a recording that is read piece by piece.

    Attributes:
        lowest: The lowest sample of the mean of the channels.
        highest: The highest one.
    """

    def __init__(self) -> None:
        """Start without a sample."""
        self.lowest, self.highest = np.inf, -np.inf
        self._count = 0
        self._sums: np.ndarray | None = None  # of the samples and their squares, by channel and, last, of the mean

    def add(self, frames: Float[np.ndarray, "frames channels"], mono: Float[np.ndarray, " frames"]) -> None:
        """Add a piece and the mean of its channels."""
        self.lowest, self.highest = min(self.lowest, mono.min()), max(self.highest, mono.max())
        if frames.shape[1] == 1:
            return
        self._count += len(frames)
        with np.errstate(all="ignore"):  # channels that cancel may be absurdly large
            sums = [
                [*frames.sum(axis=0, dtype=np.float64), mono.sum(dtype=np.float64)],
                [
                    *np.einsum("fc,fc->c", frames, frames, dtype=np.float64),
                    np.einsum("f,f->", mono, mono, dtype=np.float64),
                ],
            ]
        self._sums = np.array(sums) if self._sums is None else self._sums + sums

    def check(self, name: str) -> None:
        """Warn of a wrong scale and of channels that nearly cancel.

        Args:
            name: Name of the recording in messages.

        Raises:
            InvalidInput: The channels cancel each other, and nothing is left.
        """
        peak = max(-self.lowest, self.highest)
        if peak > BEYOND_FULL_SCALE:
            bits = 16 if peak <= 1 << 15 else 32
            advice = f"divide them by {1 << (bits - 1)}, or pass int{bits}" if peak <= 1 << 31 else "scale them"
            warnings.warn(f"{name} has samples up to {peak:.0f}, and full scale is 1; {advice}", stacklevel=2)
        if self._sums is None:
            return
        mean, power = self._sums / self._count
        with np.errstate(all="ignore"):
            variance = np.where((power - mean**2) > CONSTANT * power, power - mean**2, 0)
        channels, mixed = variance[:-1], variance[-1]
        if self.lowest == self.highest:
            mixed = 0
        if not channels.any() or mixed >= (CANCELLED / len(channels)) ** 2 * channels.max():
            return
        advice = f'give one of them: --channel, or "channel" in Python and manifests, 0 to {len(channels) - 1}'
        if mixed == 0:
            raise InvalidInput(f"{name}: its {len(channels)} channels cancel each other, and silence is left; {advice}")
        below = 10 * np.log10(channels.max() / mixed)
        warnings.warn(
            f"{name}: its {len(channels)} channels nearly cancel each other: their mean, which is used, is {below:.0f} "
            f"dB below the loudest; {advice}",
            stacklevel=2,
        )
