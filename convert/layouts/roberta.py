"""The tensors of transformers' RobertaForSequenceClassification, and of the encoder of any Roberta model."""

from ..rules import Layout, UnusedTensors, with_prefix
from .bert import ENCODER
from .wav2vec2_bert import linear

LAYOUT = Layout(
    rules=(
        *with_prefix(ENCODER, "roberta.", "text_encoder."),
        *linear("classifier.dense", "classifier.dense"),
        *linear("classifier.out_proj", "classifier.out_proj"),
    ),
    unused=(
        UnusedTensors("roberta.pooler.*", "the head reads the first token's state itself"),
        UnusedTensors("roberta.embeddings.position_ids", "positions are counted, not stored"),
        UnusedTensors("lm_head.*", "head of the pre-training task"),
    ),
)

# The encoder alone, pretrained or inside a model for a task.
ENCODER_LAYOUT = Layout(
    rules=with_prefix(ENCODER, "", "text_encoder."),
    unused=(
        UnusedTensors("pooler.*", "the first token's state is taken before the pooler"),
        UnusedTensors("embeddings.position_ids", "positions are counted, not stored"),
        UnusedTensors("lm_head.*", "head of the pre-training task"),
        UnusedTensors("classifier.*", "head of a classifier of texts"),
    ),
    optional_prefix="roberta.",
)
