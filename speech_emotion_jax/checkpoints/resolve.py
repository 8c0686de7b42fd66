"""Resolve what the user calls a checkpoint to a folder on disk, and read what the checkpoint is.

A hub id is downloaded and converted once. The converted folder is kept in a cache under the commits it came from, and
later calls need no network. A published folder is read in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import EmotionConfig, WhisperConfig
from ..convert import (
    CONFIG,
    MODEL,
    TEXT_ENCODER,
    ConversionKey,
    Origin,
    PublishedCheckpoint,
    cached_conversion,
    check_whisper,
    is_converted,
    is_whisper,
    open_emotion,
    open_whisper,
    read_json,
    read_record,
)
from ..errors import InvalidInput, UnreadableInput
from ..registry import FUSION_MODES, check_language, check_mode, declared_mode
from .request import Request, local_folder, local_path, locate, names_whisper, read_settings


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint that is on disk. Its weights have not been read.

    Attributes:
        source: The converted folder, or the opened published folder where there is no converted one.
        folder: The folder that holds config.json and the preprocessor.
    """

    source: Path | PublishedCheckpoint
    folder: Path

    def weight_digests(self) -> dict[str, dict[str, str]]:
        """Return {part: {weight file: SHA-256}} of the published weights, also where they were converted since."""
        if isinstance(self.source, Path):
            return {name: dict(part.sha256) for name, part in read_record(self.source).parts.items()}
        return {name: part.source.sha256() for name, part in self.source.parts.items()}


@dataclass(frozen=True)
class EmotionCheckpointInfo(ResolvedCheckpoint):
    """An emotion checkpoint: its architecture, its language ("es" or "en") and the folder of its tokenizer."""

    config: EmotionConfig
    language: str
    text_folder: Path


@dataclass(frozen=True)
class WhisperCheckpointInfo(ResolvedCheckpoint):
    """A Whisper checkpoint and its architecture. The tokenizer is in `folder`."""

    config: WhisperConfig


def resolve_checkpoint(request: Request) -> EmotionCheckpointInfo | WhisperCheckpointInfo:
    """Resolve a request for a checkpoint of either kind.

    Raises:
        InvalidInput: The checkpoint does not fit the request.
        UnreadableInput: A file or download is missing or broken.
    """
    return resolve_whisper(request) if names_whisper(request) else resolve_emotion(request)


def resolve_emotion(request: Request) -> EmotionCheckpointInfo:
    """Resolve a request for an emotion checkpoint.

    A hub id is downloaded and converted into the cache unless the cache already has it.

    Raises:
        InvalidInput: It is a Whisper checkpoint, or it does not fit the request.
        UnreadableInput: A file or download is missing or broken.
    """
    folder = local_folder(request)
    if folder is None:
        return _emotion_info(_cached_emotion(request))
    if not is_converted(folder):
        return _emotion_info(_open_emotion(request))
    info = _emotion_info(folder)
    _check_request(info, request)
    return info


def resolve_whisper(request: Request) -> WhisperCheckpointInfo:
    """Resolve a request for a Whisper checkpoint, as `resolve_emotion` does for an emotion checkpoint.

    Raises:
        InvalidInput: It is not a Whisper checkpoint.
        UnreadableInput: A file or download is missing or broken.
    """
    folder = local_folder(request)
    if folder is None:
        key = ConversionKey(request.model_id, request.revision, "whisper")
        return _whisper_info(cached_conversion(key, lambda: _open_whisper(request)))
    return _whisper_info(folder if is_converted(folder) else open_whisper(Origin.local(folder)))


def recorded_mode_and_language(model_id: str) -> tuple[str, str] | None:
    """Return the mode and the language that a converted folder records, or None for anything else.

    Raises:
        InvalidInput: It is a converted Whisper checkpoint.
        UnreadableInput: Its record is broken.
    """
    folder = local_path(model_id)
    if not folder.is_dir() or not is_converted(folder):
        return None
    info = _emotion_info(folder)
    return info.config.mode, info.language


def open_published(request: Request) -> PublishedCheckpoint:
    """Open the published checkpoint of a request, of either kind. A hub id is downloaded and not converted.

    Raises:
        InvalidInput: The checkpoint does not fit the request or its architecture.
        UnreadableInput: A file or download is missing or broken.
    """
    return _open_whisper(request) if names_whisper(request) else _open_emotion(request)


def _emotion_info(source: Path | PublishedCheckpoint) -> EmotionCheckpointInfo:
    if isinstance(source, Path):
        record = read_record(source)
        config, language, folder = record.config, record.language, source
        text_folder = source / TEXT_ENCODER if TEXT_ENCODER in record.parts else source
    else:
        folders = _folders(source)
        config, language, folder = source.config, source.language, folders[MODEL]
        text_folder = folders.get(TEXT_ENCODER, folder)
    if not isinstance(config, EmotionConfig) or language is None:
        raise _not_an_emotion_checkpoint(folder)
    return EmotionCheckpointInfo(source, folder, config, language, text_folder)


def _whisper_info(source: Path | PublishedCheckpoint) -> WhisperCheckpointInfo:
    if isinstance(source, Path):
        config, folder = read_record(source).config, source
    else:
        config, folder = source.config, _folders(source)[MODEL]
    if not isinstance(config, WhisperConfig):
        raise InvalidInput(
            f"{folder} is an emotion checkpoint of mode {config.mode!r}, which does not transcribe; name a Whisper one"
        )
    return WhisperCheckpointInfo(source, folder, config)


def _folders(published: PublishedCheckpoint) -> Mapping[str, Path]:
    return {name: part.origin.folder for name, part in published.parts.items()}


def _open_emotion(request: Request) -> PublishedCheckpoint:
    declared = declared_mode(request.model_id)
    if declared is None and is_whisper(read_settings(request)):
        raise _not_an_emotion_checkpoint(request.model_id)
    mode, language = _required_mode_and_language(request)
    if declared not in (None, mode):  # Checked here, before anything is downloaded.
        raise InvalidInput(f"{request.model_id} is a checkpoint of mode {declared!r}; use --mode {declared}")
    model = locate(request.model_id, request.revision, request.weights)
    text_encoder = None
    if mode in FUSION_MODES:
        # Without config.json the folder is no model, and its text encoder need not be downloaded.
        read_json(model.folder / CONFIG)
        text_encoder = _text_encoder(model, request.text_encoder, request.registry.text_encoder_id(language))
    return open_emotion(
        model,
        mode,
        language,
        text_encoder=text_encoder,
        weights=request.weights,
        labels=request.labels,
    )


def _open_whisper(request: Request) -> PublishedCheckpoint:
    names = ("mode", "language", "text_encoder", "labels")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(request, name) is not None]:
        raise InvalidInput(
            f"{request.model_id} is a Whisper checkpoint, to which {', '.join(given)} means nothing; leave it out"
        )
    check_whisper(request.model_id, read_settings(request))
    return open_whisper(locate(request.model_id, request.revision, request.weights), request.weights)


def _not_an_emotion_checkpoint(name: str | Path) -> InvalidInput:
    return InvalidInput(
        f"{name} is a Whisper checkpoint, which transcribes and scores no emotions; name an emotion checkpoint, "
        "and this one with --whisper-model"
    )


def _text_encoder(model: Origin, requested: str | None, default: str) -> Origin:
    """Return the frozen text encoder: the requested one, else the one in the model's folder, else the language's."""
    inner = model.folder / TEXT_ENCODER
    if requested is None and (inner / CONFIG).is_file():
        return Origin(inner, f"{model.id}/{TEXT_ENCODER}", model.revision)
    try:
        return locate(requested or default)
    except UnreadableInput as error:
        raise UnreadableInput(
            f"the text encoder that {model.id} needs is missing: {error}; --text-encoder names another id or folder"
        ) from error


def _required_mode_and_language(request: Request) -> tuple[str, str]:
    if request.mode is None or request.language is None:
        raise InvalidInput(
            f"{request.model_id} is not a converted folder, so its mode and language are unknown; pass both"
        )
    return check_mode(request.mode), check_language(request.language)


def _check_request(info: EmotionCheckpointInfo, request: Request) -> None:
    """Raise InvalidInput if a converted folder is not what the request says."""
    folder, mode, language, labels = info.folder, info.config.mode, info.language, info.config.labels
    if request.mode is not None and check_mode(request.mode) != mode:
        raise InvalidInput(f"{folder} is a checkpoint of mode {mode!r}; use --mode {mode}")
    if request.language is not None and check_language(request.language) != language:
        raise InvalidInput(f"{folder} is a checkpoint of language {language!r}; use --language {language}")
    if request.labels is not None and request.labels != labels:
        raise InvalidInput(f"{folder} has the labels {', '.join(labels)}; leave --labels out")
    if mode in FUSION_MODES and request.text_encoder is not None:
        recorded = read_record(folder).parts[TEXT_ENCODER].id
        if request.text_encoder != recorded:
            raise InvalidInput(
                f"{folder} holds the text encoder {recorded}; leave --text-encoder out, "
                "or convert the source again with another one"
            )


def _cached_emotion(request: Request) -> Path | PublishedCheckpoint:
    mode, language = _required_mode_and_language(request)
    text_encoder = None
    if mode in FUSION_MODES:
        text_encoder = request.text_encoder or request.registry.text_encoder_id(language)
        if local_path(text_encoder).is_dir():
            return _open_emotion(request)  # A local folder may change, so its conversion is not cached.
    settings = [mode, language, text_encoder, request.weights, request.labels]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    key = ConversionKey(
        request.model_id, request.revision, f"{mode}-{language}-{digest}", text_encoder, request.text_encoder is None
    )
    return cached_conversion(key, lambda: _open_emotion(request))
