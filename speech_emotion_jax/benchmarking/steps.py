"""The training batches of the benchmark, the same on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..audio import FEATURE_DIM

BATCHES, CLIPS, LABELS = 4, 4, 6
FRAMES = (150, 250)  # frames of the shortest and the longest clip, 3 to 5 s
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 0.01, 1.0

TrainingBatch = tuple[Float[np.ndarray, "4 frames 160"], Bool[np.ndarray, "4 frames"], Int[np.ndarray, "4"]]


def encoder_size(layers: int, width: int) -> dict[str, Any]:
    """Return the settings of a small Wav2Vec2-BERT encoder, named as in our configuration and in transformers'."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "output_hidden_size": width,
        "layerdrop": 0.0,
    }


def random_batches() -> list[TrainingBatch]:
    """Make batches of features, masks and labels.

    The features depend on their label, so that there is something to learn. They are 0 in padded frames, in which the
    mask is False.
    """
    rng = np.random.default_rng(0)
    label_means = rng.standard_normal((LABELS, FEATURE_DIM))
    batches = []
    for _ in range(BATCHES):
        labels = rng.integers(LABELS, size=CLIPS)
        lengths = rng.integers(*FRAMES, size=CLIPS)
        lengths[0] = FRAMES[1]
        mask = np.arange(lengths.max())[None] < lengths[:, None]
        features = rng.standard_normal((*mask.shape, FEATURE_DIM)) + 0.5 * label_means[labels][:, None]
        batches.append(((features * mask[..., None]).astype(np.float32), mask, labels))
    return batches
