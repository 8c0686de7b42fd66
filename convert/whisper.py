"""Published Whisper checkpoints: one part, whose config.json says all of the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import WhisperConfig
from ..errors import InvalidInput
from .published import (
    CONFIG,
    PREPROCESSOR,
    Origin,
    Published,
    PublishedPart,
    check_preprocessor,
    open_part,
    tables_of,
    tokenizer_files,
)
from .record import MODEL
from .rules import complain
from .sources import open_as_transformers, read_json

GENERATION = "generation_config.json"

EMBEDDING, OUTPUT = "decoder.embed_tokens", "proj_out.weight"


def is_whisper(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a Whisper checkpoint."""
    return settings.get("model_type") == WhisperConfig.kind


def check_whisper(name: str, settings: Mapping[str, Any]) -> None:
    """Raises InvalidInput where a config.json is of something else."""
    if not is_whisper(settings):
        raise InvalidInput(
            f"{name} is no Whisper checkpoint: its config.json is of model_type {settings.get('model_type')!r}; "
            "name one in the layout of transformers, such as openai/whisper-base"
        )


def open_whisper(model: Origin, weights: str | None = None) -> Published:
    """Open a published Whisper folder; without `weights` ("safetensors" or "bin") it is read as transformers would.

    generation_config.json and preprocessor_config.json may be missing. Raises UnreadableInput for files that are
    missing or broken and InvalidInput for what does not fit; all tensors that do not are named at once.
    """
    settings = read_json(model.folder / CONFIG)
    check_whisper(model.id, settings)
    config = WhisperConfig.from_json(settings)
    source = open_as_transformers(model.folder, weights)
    part = open_part(model, source, tables_of(config)[MODEL], _assets(model, config))
    _check_tied(part)
    return Published(None, config, {MODEL: part})


def _assets(model: Origin, config: WhisperConfig) -> list[str]:
    optional = [name for name in (GENERATION, PREPROCESSOR) if (model.folder / name).is_file()]
    if PREPROCESSOR in optional:
        expected = {"feature_size": config.num_mel_bins, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
        check_preprocessor(model.folder, expected)
    return [CONFIG, *optional, *tokenizer_files(model)]


def _check_tied(part: PublishedPart) -> None:
    """The output matrix, where a file has it, is not read: so it must be the token embedding."""
    if OUTPUT in part.matching.unused:
        [embedding] = next(filled.names for filled in part.matching.filled if filled.target == EMBEDDING)
        [tied], [embedded] = part.source.read([OUTPUT]), part.source.read([embedding])
        if not np.array_equal(tied, embedded):
            raise complain(part.origin.id, [f"{OUTPUT} differs from {embedding}, to which it is tied"])
