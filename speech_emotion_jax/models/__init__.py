"""The networks as Flax NNX modules, and their parameters by path."""

from .attention import attend, attend_in_blocks
from .emotion import EmotionModel
from .flops import audio_encoder_flops, text_encoder_flops
from .kernels.pallas import SWITCH, kernels_enabled
from .layers import Learning, scan_layers, split_key, unstack
from .parameters import abstract_model, fill_parameters, parameter_shapes, parameters_of, table, with_parameters
from .wav2vec2_bert import SelfAttention
from .whisper import Cache, CrossKV, Whisper

__all__ = [
    "SWITCH",
    "Cache",
    "CrossKV",
    "EmotionModel",
    "Learning",
    "SelfAttention",
    "Whisper",
    "abstract_model",
    "attend",
    "attend_in_blocks",
    "audio_encoder_flops",
    "fill_parameters",
    "kernels_enabled",
    "parameter_shapes",
    "parameters_of",
    "scan_layers",
    "split_key",
    "table",
    "text_encoder_flops",
    "unstack",
    "with_parameters",
]
