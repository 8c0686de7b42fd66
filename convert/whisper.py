"""Open published Whisper checkpoints. They have one part, and config.json states the whole architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import WhisperConfig
from ..errors import InvalidInput
from .published import (
    PREPROCESSOR,
    Origin,
    PublishedCheckpoint,
    PublishedPart,
    check_preprocessor,
    open_part,
    tables_of,
    tokenizer_files,
)
from .record import MODEL
from .rules import tensors_error, wrapper_prefix
from .sources import CONFIG, open_as_transformers, read_json

GENERATION = "generation_config.json"

EMBEDDING, OUTPUT = "decoder.embed_tokens", "proj_out.weight"


def is_whisper(settings: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a Whisper checkpoint."""
    return settings.get("model_type") == WhisperConfig.kind


def check_whisper(name: str, settings: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless a config.json is that of a Whisper checkpoint."""
    if not is_whisper(settings):
        raise InvalidInput(
            f"{name} is not a Whisper checkpoint: its config.json is of model_type {settings.get('model_type')!r}; "
            "name one in the layout of transformers, such as openai/whisper-base"
        )


def open_whisper(model: Origin, weights: str | None = None) -> PublishedCheckpoint:
    """Open a published Whisper folder. It may lack generation_config.json and preprocessor_config.json.

    Args:
        model: The folder.
        weights: "safetensors" or "bin". None selects the file that transformers would read.

    Raises:
        UnreadableInput: A file is missing or broken.
        InvalidInput: Something does not fit. The message names all tensors that do not.
    """
    settings = read_json(model.folder / CONFIG)
    check_whisper(model.id, settings)
    config = WhisperConfig.from_json(settings)
    source = open_as_transformers(model.folder, weights)
    part = open_part(model, source, tables_of(config)[MODEL], _assets(model, config))
    _check_tied(part)
    return PublishedCheckpoint(None, config, {MODEL: part})


def _assets(model: Origin, config: WhisperConfig) -> list[str]:
    optional = [name for name in (GENERATION, PREPROCESSOR) if (model.folder / name).is_file()]
    if PREPROCESSOR in optional:
        expected = {"feature_size": config.num_mel_bins, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
        check_preprocessor(model.folder, expected)
    return [CONFIG, *optional, *tokenizer_files(model)]


def _check_tied(part: PublishedPart) -> None:
    """Check that the output matrix, where a file has it, equals the token embedding, which is read in its place."""
    output = wrapper_prefix(part.source.tensors.keys()) + OUTPUT
    if output in part.matching.unused:
        [embedding] = next(
            assignment.names for assignment in part.matching.assignments if assignment.target == EMBEDDING
        )
        [tied], [embedded] = part.source.read([output]), part.source.read([embedding])
        if not np.array_equal(tied, embedded):
            raise tensors_error(part.origin.id, [f"{output} differs from {embedding}, to which it is tied"])
