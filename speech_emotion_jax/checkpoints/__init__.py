"""Find a checkpoint by what the user calls it, load it, and describe it."""

from .info import describe_checkpoint, describe_installation
from .load import (
    Checkpoint,
    EncoderStart,
    Request,
    WhisperCheckpoint,
    described,
    digests,
    encoder_digests,
    encoder_parameters,
    find,
    find_whisper,
    load_checkpoint,
    load_found,
    load_whisper,
    open_request,
    outlined,
    transcribes,
)

__all__ = [
    "Checkpoint",
    "EncoderStart",
    "Request",
    "WhisperCheckpoint",
    "describe_checkpoint",
    "describe_installation",
    "described",
    "digests",
    "encoder_digests",
    "encoder_parameters",
    "find",
    "find_whisper",
    "load_checkpoint",
    "load_found",
    "load_whisper",
    "open_request",
    "outlined",
    "transcribes",
]
