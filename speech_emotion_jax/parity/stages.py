"""What both sides of a parity check name alike: the stages between a recording and what is said of it, in order.

Audio layer 0 is the projection that the first layer is given, text layer 0 the embeddings, and Whisper's encoder layer
0 what its convolutions make.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

StageArray = Shaped[np.ndarray, "..."]
Stages = Mapping[str, StageArray]  # {name: what is computed there, of one recording}

WAVEFORM, FEATURES, POOLED = "waveform", "features", "pooled"
TOKENS, FUSED, LOGITS, PROBABILITIES = "tokens", "fused", "logits", "probabilities"
PREDICTION = "prediction"  # the probabilities once more, from the file and the text, nothing taken from the original
LOG_MEL, ENCODED = "log-mel", "encoded"  # of Whisper
WORD_LOGITS, WORDS = "logits of the words", "words"  # tokens, greedily
INPUT_STAGES = (WAVEFORM, FEATURES, TOKENS, LOG_MEL, WORDS)  # where the other side starts from what the original has

_FIRST = {"audio": "projection", "text": "embeddings", "encoder": "convolutions"}
ENCODERS = tuple(_FIRST)


def layer(encoder: str, index: int) -> str:
    """The name of what a layer of the encoder "audio", "text" or "encoder" (Whisper's) puts out; 0 is its input."""
    return f"{encoder} layer {index}" if index else _FIRST[encoder]


def layers(stages: Mapping[str, object], encoder: str) -> list[str]:
    """The names of an encoder's layers among the stages, from 0."""
    return [name for name in stages if name == _FIRST[encoder] or re.fullmatch(rf"{encoder} layer \d+", name)]
