"""How far one side's stage is from the other's, and how far it may be."""

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

# Differences are of the largest value of the original's stage, but for these, which have a scale of their own.
ABSOLUTE = (WAVEFORM, FEATURES, LOGITS, PROBABILITIES, PREDICTION, TOKENS, LOG_MEL, WORD_LOGITS, WORDS)


class Difference(NamedTuple):
    """`largest` and `mean` of the absolute differences, of the stage's scale; by how much ours is larger as a whole.

    The `gain` is the mean of the relative differences, small values counting less. Rounding errors cancel in it: what
    is left is systematic, as that of a wrong epsilon in a norm. `cosine` is that of the angle between both; `size` how
    many values were compared.
    """

    largest: float
    mean: float
    gain: float
    cosine: float
    size: int


class Budget(NamedTuple):
    """What may be, at most; of the `gain`, where many values were compared."""

    largest: float
    mean: float
    gain: float = math.inf

    def fraction_used(self, found: Difference) -> tuple[float, str]:
        """How much of it a difference takes, and by which of its numbers.

        Above 1 it is too large; infinite where nothing is allowed. Rounding errors of n values cancel in the gain down
        to about their size over the root of n, so of few values, as of a text of one word, more is allowed.
        """
        gain = max(self.gain, self.largest / math.sqrt(found.size))
        shares = {
            "largest": _share(found.largest, self.largest),
            "mean": _share(found.mean, self.mean),
            "gain": _share(abs(found.gain), gain),
        }
        which = max(shares, key=lambda name: shares[name])
        return shares[which], which


def _share(value: float, allowed: float) -> float:
    if not math.isfinite(value):
        return math.inf
    return 0.0 if value == 0 else math.inf if allowed == 0 else value / allowed


def scale_of(stage: str, theirs: StageArray) -> float:
    """What differences at a stage are measured in."""
    return 1.0 if stage in ABSOLUTE else float(np.abs(theirs).max(initial=0)) or 1.0


def difference(ours: StageArray, theirs: StageArray, scale: float) -> Difference:
    """Of two arrays of one shape, which are not empty."""
    a, b = (np.asarray(each, np.float64).ravel() for each in (ours, theirs))
    apart = np.abs(a - b) / scale
    return Difference(float(apart.max()), float(apart.mean()), _gain(a, b), _cosine(a, b), a.size)


def _gain(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """The slope, less 1, of a on b; no value counts for more than any other, though some be a thousand times larger."""
    if not (typical := float(np.median(np.abs(b))) or float(np.abs(b).mean())):
        return 0.0
    weights = b / (b**2 + typical**2)
    return float((a - b) @ weights) / float(b @ weights)


def _cosine(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(1.0, float(a @ b) / lengths) if lengths else float(np.array_equal(a, b))


STATES = "states"  # every stage without a budget of its own
# Of Whisper's encoder: the real ones have channels a thousand times larger than others, which come and go between
# layers, and what they leave has lost digits.
WHISPER_STATES = "hearing"
# Both sides given the same waveform, features or tokens; the prediction from the file.
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
# Each stage given the original's stage before it: the rounding errors of one layer, which add nothing up. They cancel
# in the gain of many values, not in that of a vector.
ALONE = {
    "float32": {
        STATES: Budget(3e-6, 3e-7, 1e-7),
        POOLED: Budget(3e-6, 3e-7),
        FUSED: Budget(3e-6, 3e-7),
        layer("encoder", 0): Budget(3e-6, 3e-7, 2e-7),  # GELU, which both libraries approximate, comes last
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
    """What is allowed at a stage in "float32" or "bfloat16", of both sides' networks or of the stage alone."""
    table = (ALONE if alone else BUDGETS)[precision]
    hearing = stage == ENCODED or stage.startswith("encoder layer ")
    return table.get(stage) or table.get(WHISPER_STATES if hearing else STATES, table[STATES])
