"""Names of the stages that a parity check compares, in the order in which they are computed.

Layer 0 of an encoder is the input of its first layer: the feature projection (audio), the embeddings (text) or the
output of the convolutions (Whisper).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

StageArray = Shaped[np.ndarray, "..."]
Stages = Mapping[str, StageArray]  # {stage: its array}, of one recording, without a batch axis

WAVEFORM, FEATURES, POOLED = "waveform", "features", "pooled"
TOKENS, FUSED, LOGITS, PROBABILITIES = "tokens", "fused", "logits", "probabilities"
PREDICTION = "prediction"  # the probabilities that each side computes from the file and the text on its own
LOG_MEL, ENCODED = "log-mel", "encoded"  # Whisper only
WORD_LOGITS, WORDS = "logits of the words", "words"  # Whisper's tokens, decoded greedily
INPUT_STAGES = (WAVEFORM, FEATURES, TOKENS, LOG_MEL, WORDS)  # our networks take these from the original

_FIRST = {"audio": "projection", "text": "embeddings", "encoder": "convolutions"}
ENCODERS = tuple(_FIRST)


def layer(encoder: str, index: int) -> str:
    """Return the name of the stage of one encoder layer.

    Args:
        encoder: "audio", "text" or "encoder" (Whisper's).
        index: the layer, counted from 1. 0 is the input of the first layer.
    """
    return f"{encoder} layer {index}" if index else _FIRST[encoder]


def layers(stages: Mapping[str, object], encoder: str) -> list[str]:
    """Return the names of an encoder's layers among `stages`, from layer 0.

    Args:
        stages: a mapping whose keys are names of stages.
        encoder: "audio", "text" or "encoder" (Whisper's).
    """
    return [name for name in stages if name == _FIRST[encoder] or re.fullmatch(rf"{encoder} layer \d+", name)]
