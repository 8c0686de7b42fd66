"""transformers' RobertaForSequenceClassification, and the encoder of any RobertaModel or RobertaFor... ."""

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

# The encoder alone, as it was pretrained or inside a model for one task.
ENCODER_LAYOUT = Layout(
    rules=under(ENCODER, "", "text_encoder."),
    unused=(
        Unused("pooler.*", "the first token's state is taken before the pooler"),
        Unused("embeddings.position_ids", "positions are counted, not stored"),
        Unused("lm_head.*", "head of the pre-training task"),
        Unused("classifier.*", "head of a classifier of texts"),
    ),
    optional_prefix="roberta.",
)
