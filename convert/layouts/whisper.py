"""transformers' WhisperForConditionalGeneration, or the WhisperModel inside it."""

from ..rules import TRANSPOSE, Layout, Rule, Unused, under
from .wav2vec2_bert import convolution, linear, norm

ATTENTION = (
    *linear("q_proj", "q_proj"),
    Rule("k_proj.weight", "k_proj.kernel", TRANSPOSE),  # a bias of the keys would cancel in the softmax
    *linear("v_proj", "v_proj"),
    *linear("out_proj", "out_proj"),
)

SELF_ATTENTION = (*norm("self_attn_layer_norm", "self_attn_layer_norm"), *under(ATTENTION, "self_attn.", "self_attn."))

CROSS_ATTENTION = (
    *norm("encoder_attn_layer_norm", "encoder_attn_layer_norm"),
    *under(ATTENTION, "encoder_attn.", "encoder_attn."),
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
    *under((*SELF_ATTENTION, *FEED_FORWARD), "layers.{i}.", "layers."),
    *norm("layer_norm", "layer_norm"),
)

DECODER = (
    Rule("embed_tokens.weight", "embed_tokens"),
    Rule("embed_positions.weight", "embed_positions"),
    *under((*SELF_ATTENTION, *CROSS_ATTENTION, *FEED_FORWARD), "layers.{i}.", "layers."),
    *norm("layer_norm", "layer_norm"),
)

LAYOUT = Layout(
    rules=(*under(ENCODER, "encoder.", "encoder."), *under(DECODER, "decoder.", "decoder.")),
    unused=(Unused("proj_out.weight", "tied: the token embedding once more"),),
    optional_prefix="model.",
)
