"""The networks as Flax NNX modules, their attention kernels and their parameters as plain trees."""

from .emotion import EmotionModel
from .flops import audio_encoder_flops, text_encoder_flops
from .kernels.pallas import SWITCH, kernels_enabled
from .layers import Learning, scan_layers, split_key, unstack
from .parameters import (
    Parameters,
    abstract_model,
    flat,
    nested,
    parameter_shapes,
    parameters_of,
    table,
    with_parameters,
)
from .wav2vec2_bert import SelfAttention
from .whisper import Cache, CrossKV, Whisper

__all__ = [
    "SWITCH",
    "Cache",
    "CrossKV",
    "EmotionModel",
    "Learning",
    "Parameters",
    "SelfAttention",
    "Whisper",
    "abstract_model",
    "audio_encoder_flops",
    "flat",
    "kernels_enabled",
    "nested",
    "parameter_shapes",
    "parameters_of",
    "scan_layers",
    "split_key",
    "table",
    "text_encoder_flops",
    "unstack",
    "with_parameters",
]
