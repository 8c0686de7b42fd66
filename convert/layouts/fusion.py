"""The tensors of the toolkit's audio and fusion checkpoints: Wav2Vec2-BERT, projector, fusion, classification head."""

from ..rules import Layout, Rule, UnusedTensors, with_prefix
from . import wav2vec2_bert
from .wav2vec2_bert import linear, norm

CROSS_ATTENTION_HEAD = (
    *linear("Wq", "query"),
    *linear("Wk", "key"),
    *linear("Wv", "value"),
    *linear("Wq_reverse", "query_reverse"),
    *linear("Wk_reverse", "key_reverse"),
    *linear("Wv_reverse", "value_reverse"),
    *norm("norm", "query_key_norm"),
    *linear("linear_out", "output"),
)

LAYOUT = Layout(
    rules=(
        *with_prefix(wav2vec2_bert.ENCODER, "wav2vec2_bert.", "audio_encoder."),
        Rule("layer_weights", "layer_weights"),
        *linear("projector", "projector"),
        *with_prefix(CROSS_ATTENTION_HEAD, "mult_attn_model.heads.{i}.", "fusion.heads."),
        *linear("mult_attn_model.proj", "fusion.proj"),
        *linear("classifier.dense", "classifier.dense"),
        *linear("classifier.out_proj", "classifier.out_proj"),
    ),
    unused=(UnusedTensors("classifier.layernorm.*", "in the file, and not in the original's forward pass"),),
)
