"""Checkpoints by hub id, published folder or converted folder: resolve, describe and load them."""

from .encoders import PretrainedEncoder, encoder_digests, load_encoder
from .info import describe_checkpoint, describe_installation
from .load import Checkpoint, WhisperCheckpoint, abstract_checkpoint, load_checkpoint, load_resolved, load_whisper
from .request import Request, local_path, names_whisper
from .resolve import (
    EmotionCheckpointInfo,
    WhisperCheckpointInfo,
    open_published,
    recorded_mode_and_language,
    resolve_checkpoint,
    resolve_emotion,
    resolve_whisper,
)

__all__ = [
    "Checkpoint",
    "EmotionCheckpointInfo",
    "PretrainedEncoder",
    "Request",
    "WhisperCheckpoint",
    "WhisperCheckpointInfo",
    "abstract_checkpoint",
    "describe_checkpoint",
    "describe_installation",
    "encoder_digests",
    "load_checkpoint",
    "load_encoder",
    "load_resolved",
    "load_whisper",
    "local_path",
    "names_whisper",
    "open_published",
    "recorded_mode_and_language",
    "resolve_checkpoint",
    "resolve_emotion",
    "resolve_whisper",
]
