"""Convert published checkpoints to converted folders, and back."""

from .cache import ConversionKey, cached_conversion
from .emotion import compatible_modes, open_emotion
from .encoder import Encoder, check_encoder, open_encoder
from .engine import convert, write_safetensors
from .publication import check_text_encoder, publish, publish_and_convert
from .published import Origin, PublishedCheckpoint, tables_of
from .record import MODEL, SCHEMA, TEXT_ENCODER, is_converted, read_record
from .sources import CONFIG, TensorSource, open_as_transformers, open_source, read_json
from .whisper import GENERATION, check_whisper, is_whisper, open_whisper

__all__ = [
    "CONFIG",
    "GENERATION",
    "MODEL",
    "SCHEMA",
    "TEXT_ENCODER",
    "ConversionKey",
    "Encoder",
    "Origin",
    "PublishedCheckpoint",
    "TensorSource",
    "cached_conversion",
    "check_encoder",
    "check_text_encoder",
    "check_whisper",
    "compatible_modes",
    "convert",
    "is_converted",
    "is_whisper",
    "open_as_transformers",
    "open_emotion",
    "open_encoder",
    "open_source",
    "open_whisper",
    "publish",
    "publish_and_convert",
    "read_json",
    "read_record",
    "tables_of",
    "write_safetensors",
]
