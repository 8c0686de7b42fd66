"""transformers' BertModel, alone or inside a BertFor...; RobertaModel's encoder has the same names."""

from ..rules import Layout, Rule, Unused, under
from .wav2vec2_bert import linear, norm

LAYER = (
    *linear("attention.self.query", "query"),
    *linear("attention.self.key", "key"),
    *linear("attention.self.value", "value"),
    *linear("attention.output.dense", "attention_output"),
    *norm("attention.output.LayerNorm", "attention_layer_norm"),
    *linear("intermediate.dense", "intermediate"),
    *linear("output.dense", "output"),
    *norm("output.LayerNorm", "output_layer_norm"),
)

ENCODER = (
    Rule("embeddings.word_embeddings.weight", "embeddings.word"),
    Rule("embeddings.position_embeddings.weight", "embeddings.position"),
    Rule("embeddings.token_type_embeddings.weight", "embeddings.token_type"),
    *norm("embeddings.LayerNorm", "embeddings.layer_norm"),
    *under(LAYER, "encoder.layer.{i}.", "layers."),
)

UNUSED = (
    Unused("pooler.*", "the [CLS] state is taken before the pooler"),
    Unused("embeddings.position_ids", "positions are counted, not stored"),
    Unused("cls.*", "heads of the pre-training tasks"),
    Unused("classifier.*", "head of a classifier of texts"),
)

LAYOUT = Layout(
    rules=under(ENCODER, "", "text_encoder."),
    unused=UNUSED,
    optional_prefix="bert.",
    renamed={"gamma": "weight", "beta": "bias"},
)
