"""Measure how much a stage of ours differs from the original's, and define how much it may differ."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .stages import (
    ENCODED,
    FEATURES,
    FUSED,
    LOG_MEL,
    LOGITS,
    POOLED,
    PREDICTION,
    PROBABILITIES,
    TOKENS,
    WAVEFORM,
    WORD_LOGITS,
    WORDS,
    StageArray,
    layer,
)

# Differences are divided by the largest absolute value of the original's stage, except at these stages, whose values
# already have a fixed scale.
ABSOLUTE = (WAVEFORM, FEATURES, LOGITS, PROBABILITIES, PREDICTION, TOKENS, LOG_MEL, WORD_LOGITS, WORDS)


class Difference(NamedTuple):
    """The difference between two arrays.

    Attributes:
        largest: the largest absolute difference, divided by the stage's scale.
        mean: the mean absolute difference, divided by the stage's scale.
        gain: how much larger ours is as a whole, as a signed fraction. Rounding errors cancel in it, so what remains
            is systematic, such as the effect of a wrong epsilon in a norm.
        cosine: the cosine of the angle between the two arrays.
        size: how many values were compared.
    """

    largest: float
    mean: float
    gain: float
    cosine: float
    size: int


class Budget(NamedTuple):
    """Upper bounds on a `Difference`. The bound on `gain` is relaxed when few values were compared."""

    largest: float
    mean: float
    gain: float = math.inf

    def fraction_used(self, difference: Difference) -> tuple[float, str]:
        """Return the fraction of this budget that a difference uses.

        Returns:
            The largest fraction over the three bounds, and the name of that bound. A fraction above 1 is too large. It
            is infinite if the difference is not finite, or if the bound is 0 and the difference is not.
        """
        # The rounding errors of n values cancel in the gain to about their size divided by sqrt(n). With few values,
        # such as a text of one word, they cancel less.
        gain = max(self.gain, self.largest / math.sqrt(difference.size))
        fractions = {
            "largest": _fraction(difference.largest, self.largest),
            "mean": _fraction(difference.mean, self.mean),
            "gain": _fraction(abs(difference.gain), gain),
        }
        criterion = max(fractions, key=lambda name: fractions[name])
        return fractions[criterion], criterion


def _fraction(value: float, allowed: float) -> float:
    if not math.isfinite(value):
        return math.inf
    return 0.0 if value == 0 else math.inf if allowed == 0 else value / allowed


def scale_of(stage: str, theirs: StageArray) -> float:
    """Return the scale of a stage: 1, or the original's largest absolute value. See `ABSOLUTE`."""
    return 1.0 if stage in ABSOLUTE else float(np.abs(theirs).max(initial=0)) or 1.0


def difference(ours: StageArray, theirs: StageArray, scale: float) -> Difference:
    """Compare two non-empty arrays of the same shape.

    Args:
        ours: the array computed in JAX.
        theirs: the array of the original.
        scale: what the absolute differences are divided by, see `scale_of`.
    """
    a, b = (np.asarray(each, np.float64).ravel() for each in (ours, theirs))
    apart = np.abs(a - b) / scale
    return Difference(float(apart.max()), float(apart.mean()), _gain(a, b), _cosine(a, b), a.size)


def _gain(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return the weighted least-squares slope of a on b, minus 1.

    The weights keep values that are a thousand times larger than the others from dominating the slope.
    """
    if not (typical := float(np.median(np.abs(b))) or float(np.abs(b).mean())):
        return 0.0
    weights = b / (b**2 + typical**2)
    return float((a - b) @ weights) / float(b @ weights)


def _cosine(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(1.0, float(a @ b) / lengths) if lengths else float(np.array_equal(a, b))


STATES = "states"  # the budget of every stage that has none of its own
# Whisper's encoder needs a larger budget. Trained checkpoints have channels a thousand times larger than the others.
# Where a layer cancels such a channel, the values that remain have lost digits.
WHISPER_STATES = "whisper states"
# Both networks start from the same waveform, features or tokens. The prediction starts from the file.
BUDGETS = {
    "float32": {
        WAVEFORM: Budget(1e-6, 1e-7),
        FEATURES: Budget(1e-3, 1e-4),
        TOKENS: Budget(0.0, 0.0),
        STATES: Budget(1e-5, 1e-6),
        WHISPER_STATES: Budget(1e-4, 1e-6),
        LOGITS: Budget(1e-4, 1e-4),
        PROBABILITIES: Budget(1e-4, 1e-4),
        PREDICTION: Budget(1e-3, 1e-3),
        LOG_MEL: Budget(5e-4, 2e-5),
        WORD_LOGITS: Budget(1e-3, 1e-4),
        WORDS: Budget(0.0, 0.0),
    },
    "bfloat16": {
        WAVEFORM: Budget(1e-6, 1e-7),
        FEATURES: Budget(1e-3, 1e-4),
        TOKENS: Budget(0.0, 0.0),
        STATES: Budget(5e-2, 1e-2),
        WHISPER_STATES: Budget(3e-1, 1e-3),
        LOGITS: Budget(1e-1, 1e-1),
        PROBABILITIES: Budget(3e-2, 3e-2),
        PREDICTION: Budget(3e-2, 3e-2),
        LOG_MEL: Budget(5e-4, 2e-5),
        WORD_LOGITS: Budget(1.0, 1e-1),
        WORDS: Budget(0.0, 0.0),
    },
}
# Each stage starts from the original's previous stage, so these cover the rounding errors of one layer. The gain is
# bounded for sequences only: a single vector has too few values for rounding errors to cancel.
ALONE = {
    "float32": {
        STATES: Budget(3e-6, 3e-7, 1e-7),
        POOLED: Budget(3e-6, 3e-7),
        FUSED: Budget(3e-6, 3e-7),
        layer("encoder", 0): Budget(3e-6, 3e-7, 2e-7),  # ends with a GELU, which both libraries approximate
        LOGITS: Budget(3e-5, 3e-5),
        PROBABILITIES: Budget(1e-6, 1e-6),
    },
    "bfloat16": {
        STATES: Budget(2e-2, 3e-3, 3e-3),
        POOLED: Budget(2e-2, 3e-3),
        FUSED: Budget(3e-6, 3e-7),
        LOGITS: Budget(3e-5, 3e-5),
        PROBABILITIES: Budget(1e-6, 1e-6),
    },
}


def budget(stage: str, precision: str, *, alone: bool = False) -> Budget:
    """Return the budget of a stage.

    Args:
        stage: the stage's name.
        precision: "float32" or "bfloat16".
        alone: whether the stage starts from the original's previous stage (`ALONE`) instead of being computed by the
            whole network (`BUDGETS`).
    """
    table = (ALONE if alone else BUDGETS)[precision]
    in_whisper = stage == ENCODED or stage.startswith("encoder layer ")
    return table.get(stage) or table.get(WHISPER_STATES if in_whisper else STATES, table[STATES])
