"""The tensors of transformers' Wav2Vec2BertModel, alone or inside a model for a task or an emotion checkpoint."""

from ..rules import CONVOLUTION, DEPTHWISE, KEEP, POINTWISE, TRANSPOSE, Layout, Rule, UnusedTensors, with_prefix


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """Return the rules of a linear layer with a bias."""
    return (Rule(f"{source}.weight", f"{target}.kernel", TRANSPOSE), Rule(f"{source}.bias", f"{target}.bias"))


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Return the rules of a LayerNorm."""
    return (Rule(f"{source}.weight", f"{target}.scale"), Rule(f"{source}.bias", f"{target}.bias"))


def convolution(source: str, target: str) -> tuple[Rule, ...]:
    """Return the rules of a convolution with a bias."""
    return (Rule(f"{source}.weight", f"{target}.kernel", CONVOLUTION), Rule(f"{source}.bias", f"{target}.bias"))


def feed_forward(name: str) -> tuple[Rule, ...]:
    """Return the rules of a feed-forward network."""
    return (
        *linear(f"{name}.intermediate_dense", f"{name}.intermediate_dense"),
        *linear(f"{name}.output_dense", f"{name}.output_dense"),
    )


ATTENTION = (
    *linear("self_attn.linear_q", "self_attn.linear_q"),
    *linear("self_attn.linear_k", "self_attn.linear_k"),
    *linear("self_attn.linear_v", "self_attn.linear_v"),
    *linear("self_attn.linear_out", "self_attn.linear_out"),
)

LAYER = (
    *norm("ffn1_layer_norm", "ffn1_layer_norm"),
    *feed_forward("ffn1"),
    *norm("self_attn_layer_norm", "self_attn_layer_norm"),
    *ATTENTION,
    Rule("self_attn.distance_embedding.weight", "self_attn.distance_embedding", KEEP),
    *norm("conv_module.layer_norm", "conv_module.layer_norm"),
    Rule("conv_module.pointwise_conv1.weight", "conv_module.pointwise_conv1.kernel", POINTWISE),
    Rule("conv_module.depthwise_conv.weight", "conv_module.depthwise_kernel", DEPTHWISE),
    *norm("conv_module.depthwise_layer_norm", "conv_module.depthwise_layer_norm"),
    Rule("conv_module.pointwise_conv2.weight", "conv_module.pointwise_conv2.kernel", POINTWISE),
    *norm("ffn2_layer_norm", "ffn2_layer_norm"),
    *feed_forward("ffn2"),
    *norm("final_layer_norm", "final_layer_norm"),
)

ADAPTER_LAYER = (
    *norm("residual_layer_norm", "residual_layer_norm"),
    *convolution("residual_conv", "residual_conv"),
    *norm("self_attn_layer_norm", "self_attn_layer_norm"),
    *convolution("self_attn_conv", "self_attn_conv"),
    *ATTENTION,
    *norm("ffn_layer_norm", "ffn_layer_norm"),
    *feed_forward("ffn"),
)

ENCODER = (
    Rule("masked_spec_embed", "masked_spec_embed"),
    *norm("feature_projection.layer_norm", "feature_layer_norm"),
    *linear("feature_projection.projection", "feature_projection"),
    *with_prefix(LAYER, "encoder.layers.{i}.", "layers."),
    *feed_forward("intermediate_ffn"),
    *linear("adapter.proj", "adapter.proj"),
    *norm("adapter.proj_layer_norm", "adapter.proj_layer_norm"),
    *with_prefix(ADAPTER_LAYER, "adapter.layers.{i}.", "adapter.layers."),
)

# The encoder alone, pretrained or inside a model for a task.
LAYOUT = Layout(
    rules=(
        *with_prefix(ENCODER, "", "audio_encoder."),
        Rule("layer_weights", "layer_weights"),
        *linear("projector", "projector"),
    ),
    unused=(
        UnusedTensors("classifier.*", "head of a classifier"),
        UnusedTensors("mult_attn_model.*", "fusion of an emotion checkpoint"),
        UnusedTensors("lm_head.*", "head of a transcriber (CTC)"),
    ),
    optional_prefix="wav2vec2_bert.",
)
