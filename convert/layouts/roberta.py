"""transformers' RobertaForSequenceClassification."""

from ..rules import Layout, Unused, under
from .bert import ENCODER
from .wav2vec2_bert import linear

LAYOUT = Layout(
    rules=(
        *under(ENCODER, "roberta.", "text_encoder."),
        *linear("classifier.dense", "classifier.dense"),
        *linear("classifier.out_proj", "classifier.out_proj"),
    ),
    unused=(
        Unused("roberta.pooler.*", "the head reads the first token's state itself"),
        Unused("roberta.embeddings.position_ids", "positions are counted, not stored"),
        Unused("lm_head.*", "head of the pre-training task"),
    ),
)
