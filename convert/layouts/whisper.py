"""The tensors of transformers' WhisperForConditionalGeneration, or of the WhisperModel inside it."""

from ..rules import TRANSPOSE, Layout, Rule, UnusedTensors, with_prefix
from .wav2vec2_bert import convolution, linear, norm

ATTENTION = (
    *linear("q_proj", "q_proj"),
    Rule("k_proj.weight", "k_proj.kernel", TRANSPOSE),  # Keys have no bias, which would cancel in the softmax.
    *linear("v_proj", "v_proj"),
    *linear("out_proj", "out_proj"),
)

SELF_ATTENTION = (
    *norm("self_attn_layer_norm", "self_attn_layer_norm"),
    *with_prefix(ATTENTION, "self_attn.", "self_attn."),
)

CROSS_ATTENTION = (
    *norm("encoder_attn_layer_norm", "encoder_attn_layer_norm"),
    *with_prefix(ATTENTION, "encoder_attn.", "encoder_attn."),
)

FEED_FORWARD = (
    *norm("final_layer_norm", "feed_forward.final_layer_norm"),
    *linear("fc1", "feed_forward.fc1"),
    *linear("fc2", "feed_forward.fc2"),
)

ENCODER = (
    *convolution("conv1", "conv1"),
    *convolution("conv2", "conv2"),
    Rule("embed_positions.weight", "embed_positions"),
    *with_prefix((*SELF_ATTENTION, *FEED_FORWARD), "layers.{i}.", "layers."),
    *norm("layer_norm", "layer_norm"),
)

DECODER = (
    Rule("embed_tokens.weight", "embed_tokens"),
    Rule("embed_positions.weight", "embed_positions"),
    *with_prefix((*SELF_ATTENTION, *CROSS_ATTENTION, *FEED_FORWARD), "layers.{i}.", "layers."),
    *norm("layer_norm", "layer_norm"),
)

LAYOUT = Layout(
    rules=(*with_prefix(ENCODER, "encoder.", "encoder."), *with_prefix(DECODER, "decoder.", "decoder.")),
    unused=(UnusedTensors("proj_out.weight", "tied: the token embedding once more"),),
    optional_prefix="model.",
)
