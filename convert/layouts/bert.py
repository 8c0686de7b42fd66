"""The tensors of transformers' BertModel, alone or inside a model for a task, and of RobertaModel's encoder."""

from ..rules import Layout, Rule, UnusedTensors, with_prefix
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
    *with_prefix(LAYER, "encoder.layer.{i}.", "layers."),
)

UNUSED = (
    UnusedTensors("pooler.*", "the [CLS] state is taken before the pooler"),
    UnusedTensors("embeddings.position_ids", "positions are counted, not stored"),
    UnusedTensors("cls.*", "heads of the pre-training tasks"),
    UnusedTensors("classifier.*", "head of a classifier of texts"),
)

LAYOUT = Layout(
    rules=with_prefix(ENCODER, "", "text_encoder."),
    unused=UNUSED,
    optional_prefix="bert.",
    renamed={"gamma": "weight", "beta": "bias"},
)
