"""How many floating-point operations the models' matrix products take: a multiplication and an addition count as two.

What is counted is the model's own, for the frames and tokens that there are: no padding, no recomputation. The
depthwise convolution, norms and activations are no matrix products and are left out; they are under 0.2 % of the sum.
"""

from __future__ import annotations

from ..config import BertConfig, Wav2Vec2BertConfig


def audio_encoder_flops(config: Wav2Vec2BertConfig, frames: int) -> float:
    """Of one clip of that many frames of 20 ms, through the encoder without an adapter."""
    width, inner = config.hidden_size, config.intermediate_size
    feed_forward = 2 * 2 * width * inner  # two of two matrices
    attention = 4 * width**2 + config.positions * width + 2 * frames * width  # q, k, v, out; positions; scores, values
    convolution = 3 * width**2
    layer = feed_forward + attention + convolution
    return 2.0 * frames * (config.feature_projection_input_dim * width + config.num_hidden_layers * layer)


def text_encoder_flops(config: BertConfig, tokens: int) -> float:
    """Of one text of that many tokens."""
    width = config.hidden_size
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    return 2.0 * tokens * config.num_hidden_layers * layer
