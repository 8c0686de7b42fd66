"""Floating-point operations of the models' matrix products, where a multiplication and an addition count as two.

The counts are those of the model itself, for the real frames and tokens: they include neither padding nor
recomputation. The depthwise convolution, norms and activations are left out, which are under 0.2 % of the total.
"""

from __future__ import annotations

from ..config import BertConfig, Wav2Vec2BertConfig


def audio_encoder_flops(config: Wav2Vec2BertConfig, frames: int) -> float:
    """Count the operations of one clip in the audio encoder without an adapter.

    Args:
        config: The architecture.
        frames: Length of the clip in frames of 20 ms.
    """
    width, inner = config.hidden_size, config.intermediate_size
    feed_forward = 2 * 2 * width * inner  # two networks of two matrices each
    attention = 4 * width**2 + config.positions * width + 2 * frames * width  # q, k, v, out; positions; scores, values
    convolution = 3 * width**2
    layer = feed_forward + attention + convolution
    return 2.0 * frames * (config.feature_projection_input_dim * width + config.num_hidden_layers * layer)


def text_encoder_flops(config: BertConfig, tokens: int) -> float:
    """Count the operations of one text in the text encoder.

    Args:
        config: The architecture.
        tokens: Length of the text in tokens.
    """
    width = config.hidden_size
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    return 2.0 * tokens * config.num_hidden_layers * layer
