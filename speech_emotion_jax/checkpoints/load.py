"""Finds a checkpoint by what the user calls it, and loads it: a hub id, a published folder or a converted one.

A hub id is downloaded and converted once; the converted folder is kept in a cache keyed by the commits, and everything
after that works without network. A published folder is read in place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding

from ..config import Architecture, BertConfig, EmotionConfig, Wav2Vec2BertConfig, WhisperConfig
from ..convert import (
    CONFIG,
    MODEL,
    TEXT_ENCODER,
    Encoder,
    Origin,
    Published,
    Wanted,
    cached,
    check_encoder,
    check_whisper,
    hub,
    is_converted,
    is_whisper,
    open_emotion,
    open_encoder,
    open_whisper,
    read_json,
    read_record,
)
from ..errors import InvalidInput, UnreadableInput
from ..models import EmotionModel, Whisper, abstract_model, parameter_shapes, with_parameters
from ..registry import FUSION_MODES, PUBLISHED, Registry, check_language, check_mode, declared_mode
from ..runtime.cache_folder import cache_folder
from ..runtime.orbax_arrays import load_parameters
from ..runtime.precision import check_precision, parameter_dtype
from ..runtime.progress import progress
from ..runtime.storage import fetched, is_remote


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    `mode` and `language` may be None for a converted folder, which knows its own; Whisper has none. `text_encoder`,
    `labels` and `registry` are of emotion checkpoints alone.
    """

    model_id: str
    mode: str | None = None
    language: str | None = None
    text_encoder: str | None = None
    revision: str | None = None
    weights: str | None = None
    labels: tuple[str, ...] | None = None
    registry: Registry = PUBLISHED


@dataclass(frozen=True)
class Checkpoint:
    """An emotion model in memory, and where its preprocessor (`folder`) and tokenizer (`text_folder`) are."""

    model: EmotionModel
    config: EmotionConfig
    language: str
    folder: Path
    text_folder: Path

    @property
    def padding_value(self) -> float:
        """What the features are padded with: it fills the second half of an odd last frame."""
        return float(read_json(self.folder / "preprocessor_config.json").get("padding_value", 0.0))


@dataclass(frozen=True)
class WhisperCheckpoint:
    """Whisper in memory, what the user called it, and where its tokenizer and generation_config.json are."""

    model: Whisper
    config: WhisperConfig
    folder: Path
    name: str


def load_checkpoint(request: Request, place: jax.Device | Sharding, precision: str) -> Checkpoint:
    """Load an emotion model onto a device or, by a sharding, onto several, its encoders' matrices in the precision.

    Raises UnreadableInput for what is missing or broken and InvalidInput for what does not fit the request.
    """
    return load_found(find(request), place, precision)


def load_found(found: Path | Published, place: jax.Device | Sharding, precision: str) -> Checkpoint:
    """The same for what `find` found."""
    check_precision(precision)
    config, language, folder, text_folder = described(found)
    assert isinstance(config, EmotionConfig)
    assert language is not None
    sharding = SingleDeviceSharding(place) if isinstance(place, jax.Device) else place
    arrays = _arrays(found, config, sharding, precision)
    return Checkpoint(with_parameters(config, arrays), config, language, folder, text_folder)


def outlined(found: Path | Published, sharding: Sharding, precision: str) -> Checkpoint:
    """The same without the weights: a model of jax.ShapeDtypeStruct, from which programs can be compiled."""
    check_precision(precision)
    config, language, folder, text_folder = described(found)
    assert isinstance(config, EmotionConfig)
    assert language is not None
    wanted = _wanted(config, sharding, precision)
    graph, state = nnx.split(abstract_model(config))
    outline = {path: leaf.replace(wanted[".".join(map(str, path))]) for path, leaf in nnx.to_flat_state(state)}
    return Checkpoint(nnx.merge(graph, nnx.from_flat_state(outline)), config, language, folder, text_folder)


def load_whisper(
    model_id: str, sharding: Sharding, precision: str, *, revision: str | None = None
) -> WhisperCheckpoint:
    """Load Whisper by hub id, published folder or converted folder, every parameter placed by `sharding`.

    Its matrices are held in the given precision. Raises UnreadableInput for what is missing or broken and InvalidInput
    for what is no Whisper checkpoint.
    """
    check_precision(precision)
    found = find_whisper(Request(model_id, revision=revision))
    config, _, folder, _ = described(found)
    assert isinstance(config, WhisperConfig)
    model = with_parameters(config, _arrays(found, config, sharding, precision))
    return WhisperCheckpoint(model, config, folder, model_id)


class EncoderStart(NamedTuple):
    """A pretrained encoder, {path: float32 array} as in an emotion model, and its tokenizer or preprocessor folder."""

    config: Wav2Vec2BertConfig | BertConfig
    parameters: dict[str, np.ndarray]
    folder: Path


def encoder_parameters(name: str, kind: str) -> EncoderStart:
    """The encoder of "audio" or "text" that a hub id, a published folder or a converted one holds, alone or inside.

    An audio encoder from an emotion checkpoint brings its projector along (and layer_weights where there are some).
    Raises UnreadableInput for what is missing or broken and InvalidInput for what holds no such encoder.
    """
    request = Request(name)
    folder = _local(request)
    if folder is not None and is_converted(folder):
        return _converted_encoder(folder, kind)
    encoder = _published_encoder(request, kind)
    with progress(f"Reading the encoder of {kind}", len(encoder.part.source.tensors)) as advance:
        parameters = {path: np.asarray(array, np.float32) for path, array in encoder.parameters(advance)}
    return EncoderStart(encoder.config, parameters, encoder.folder)


def encoder_digests(name: str, kind: str) -> dict[str, str]:
    """{weight file: sha256} of the published weights that such an encoder is read from."""
    request = Request(name)
    folder = _local(request)
    if folder is not None and is_converted(folder):
        parts = read_record(folder).parts
        return dict(parts[TEXT_ENCODER if kind == "text" and TEXT_ENCODER in parts else MODEL].sha256)
    return _published_encoder(request, kind).sha256()


def _published_encoder(request: Request, kind: str) -> Encoder:
    """An emotion checkpoint's frozen text encoder is in a folder of its own, where it is there at all."""
    name, settings = request.model_id, _settings(request)
    inside = kind == "text" and settings.get("model_type") == "wav2vec2-bert"
    if not inside:
        check_encoder(name, kind, settings)  # before gigabytes are downloaded
    origin = _origin(name, None, None)
    if not inside:
        return open_encoder(origin, kind)
    if not (origin.folder / TEXT_ENCODER / CONFIG).is_file():
        raise InvalidInput(f"{name} holds no text encoder; name the one it was trained with")
    return open_encoder(Origin(origin.folder / TEXT_ENCODER, f"{name}/{TEXT_ENCODER}", origin.revision), kind)


def _converted_encoder(folder: Path, kind: str) -> EncoderStart:
    record = read_record(folder)
    config = record.config
    if not isinstance(config, EmotionConfig):
        raise InvalidInput(f"{folder} is a Whisper checkpoint, whose encoder has another task; name another checkpoint")
    encoder = config.audio if kind == "audio" else config.text
    if encoder is None:
        raise InvalidInput(f"{folder} is of mode {config.mode!r} and has no encoder of {kind}; name another checkpoint")
    taken = ("audio_encoder.", "projector.", "layer_weights") if kind == "audio" else ("text_encoder.",)
    on_host = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    wanted = {
        path: jax.ShapeDtypeStruct(shape, np.float32, sharding=on_host)
        for path, shape in parameter_shapes(config).items()
        if path.startswith(taken)
    }
    with progress(f"Loading the encoder of {kind} from {folder.name}"):
        arrays = load_parameters(folder, wanted)
    inside = kind == "text" and TEXT_ENCODER in record.parts
    parameters = {path: np.asarray(array) for path, array in arrays.items()}
    return EncoderStart(encoder, parameters, folder / TEXT_ENCODER if inside else folder)


class Description(NamedTuple):
    """What a checkpoint is, known without its weights, and where its preprocessor and tokenizer are."""

    config: Architecture
    language: str | None
    folder: Path
    text_folder: Path


def described(found: Path | Published) -> Description:
    """Describe what `find` or `find_whisper` found."""
    if isinstance(found, Path):
        record = read_record(found)
        return Description(
            record.config, record.language, found, found / TEXT_ENCODER if TEXT_ENCODER in record.parts else found
        )
    folders = {name: part.origin.folder for name, part in found.parts.items()}
    return Description(found.config, found.language, folders[MODEL], folders.get(TEXT_ENCODER, folders[MODEL]))


def digests(found: Path | Published) -> dict[str, dict[str, str]]:
    """{part: {weight file: sha256}} of the published weights, converted since or not."""
    if isinstance(found, Path):
        return {name: dict(part.sha256) for name, part in read_record(found).parts.items()}
    return {name: part.source.sha256() for name, part in found.parts.items()}


def _arrays(found: Path | Published, config: Architecture, sharding: Sharding, precision: str) -> dict[str, jax.Array]:
    """The parameters by path, read straight to where they are to be."""
    if isinstance(found, Path):
        with progress(f"Loading {found.name} in {precision}"):
            return load_parameters(found, _wanted(config, sharding, precision))
    total = sum(len(part.source.tensors) for part in found.parts.values())
    with progress("Reading tensors", total) as advance:
        return {
            path: jax.device_put(np.asarray(array, parameter_dtype(path, precision)), sharding)
            for path, array in found.parameters(advance)
        }


def _wanted(config: Architecture, sharding: Sharding, precision: str) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape, dtype and place} of the parameters."""
    return {
        path: jax.ShapeDtypeStruct(shape, parameter_dtype(path, precision), sharding=sharding)
        for path, shape in parameter_shapes(config).items()
    }


def find(request: Request) -> Path | Published:
    """The converted folder that answers a request, or the published folder where there is no converted one.

    An emotion checkpoint is meant. A hub id is downloaded and converted into the cache where it is not there yet.
    """
    folder = _local(request)
    if folder is None:
        return _cached_emotion(request)
    if is_converted(folder):
        _check_record(folder, request)
        return folder
    return _open_emotion(request)


def find_whisper(request: Request) -> Path | Published:
    """As `find`, for a Whisper checkpoint."""
    folder = _local(request)
    if folder is None:
        return cached(Wanted(request.model_id, request.revision, "whisper"), lambda: _open_whisper(request))
    if not is_converted(folder):
        return open_whisper(Origin.local(folder))
    config = read_record(folder).config
    if not isinstance(config, WhisperConfig):
        raise InvalidInput(
            f"{folder} is an emotion checkpoint of mode {config.mode!r}, which does not transcribe; name a Whisper one"
        )
    return folder


def _local(request: Request) -> Path | None:
    """The folder that a request names; None for a hub id."""
    folder = _on_disk(request.model_id)
    if folder.is_dir():
        return folder
    if not hub.looks_like_hub_id(request.model_id):
        kind = "is a file" if folder.exists() else "does not exist"
        raise UnreadableInput(f"{request.model_id} {kind}; name a hub id, a published folder or a converted folder")
    return None


def _on_disk(name: str) -> Path:
    """The path of that name; a bucket's folder is fetched first."""
    return fetched(name, cache_folder() / "fetched") if is_remote(name) else Path(name)


def open_request(request: Request) -> Published:
    """The published checkpoint of a request, emotion's or Whisper's, hub ids downloaded."""
    return _open_whisper(request) if transcribes(request) else _open_emotion(request)


def transcribes(request: Request) -> bool:
    """Whether a request names a Whisper checkpoint."""
    return declared_mode(request.model_id) is None and is_whisper(_settings(request))


def _settings(request: Request) -> dict[str, Any]:
    """config.json, which tells the kind of a checkpoint before its weights are downloaded."""
    folder = _local(request)
    return read_json(folder / CONFIG if folder else hub.download_config(request.model_id, request.revision))


def _open_emotion(request: Request) -> Published:
    declared = declared_mode(request.model_id)
    if declared is None and is_whisper(_settings(request)):
        raise _transcriber(request.model_id)
    mode, language = _said(request)
    if declared not in (None, mode):  # before anything is downloaded
        raise InvalidInput(f"{request.model_id} is a checkpoint of mode {declared!r}; use --mode {declared}")
    model = _origin(request.model_id, request.revision, request.weights)
    text_encoder = None
    if mode in FUSION_MODES:
        read_json(model.folder / CONFIG)  # before another download for a folder that is no model
        text_encoder = _text_encoder(model, request.text_encoder, request.registry.text_encoder_id(language))
    return open_emotion(
        model,
        mode,
        language,
        text_encoder=text_encoder,
        weights=request.weights,
        labels=request.labels,
    )


def _transcriber(name: str | Path) -> InvalidInput:
    return InvalidInput(
        f"{name} is a Whisper checkpoint, which transcribes and scores no emotions; name an emotion checkpoint, "
        "and this one with --whisper-model"
    )


def _open_whisper(request: Request) -> Published:
    names = ("mode", "language", "text_encoder", "labels")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(request, name) is not None]:
        raise InvalidInput(
            f"{request.model_id} is a Whisper checkpoint, to which {', '.join(given)} means nothing; leave it out"
        )
    check_whisper(request.model_id, _settings(request))
    return open_whisper(_origin(request.model_id, request.revision, request.weights), request.weights)


def _text_encoder(model: Origin, asked: str | None, default: str) -> Origin:
    """The frozen text encoder: the one asked for, else the one in the model's folder, else the language's."""
    own = model.folder / TEXT_ENCODER
    if asked is None and (own / CONFIG).is_file():
        return Origin(own, f"{model.id}/{TEXT_ENCODER}", model.revision)
    try:
        return _origin(asked or default, None, None)
    except UnreadableInput as error:
        raise UnreadableInput(
            f"the text encoder that {model.id} needs is missing: {error}; --text-encoder names another id or folder"
        ) from error


def _said(request: Request) -> tuple[str, str]:
    """Mode and language, which only a converted folder knows."""
    if request.mode is None or request.language is None:
        raise InvalidInput(
            f"{request.model_id} is no converted folder, so it does not say its mode; pass mode and language"
        )
    return check_mode(request.mode), check_language(request.language)


def _origin(name: str, revision: str | None, weights: str | None) -> Origin:
    folder = _on_disk(name)
    if folder.is_dir():
        return Origin.local(folder)
    if not hub.looks_like_hub_id(name):
        raise UnreadableInput(f"{name} is no folder and no hub id; check the path")
    snapshot = hub.download(name, revision, weights)
    return Origin(snapshot.folder, snapshot.model_id, snapshot.revision)


def _check_record(folder: Path, request: Request) -> None:
    record = read_record(folder)
    if not isinstance(record.config, EmotionConfig):
        raise _transcriber(folder)
    mode, language = record.config.mode, record.language
    if request.mode is not None and check_mode(request.mode) != mode:
        raise InvalidInput(f"{folder} is a checkpoint of mode {mode!r}; use --mode {mode}")
    if request.language is not None and check_language(request.language) != language:
        raise InvalidInput(f"{folder} is a checkpoint of language {language!r}; use --language {language}")
    if request.labels is not None and request.labels != record.config.labels:
        raise InvalidInput(f"{folder} has the labels {', '.join(record.config.labels)}; leave --labels out")
    if mode in FUSION_MODES and request.text_encoder not in (None, record.parts[TEXT_ENCODER].id):
        raise InvalidInput(
            f"{folder} holds the text encoder {record.parts[TEXT_ENCODER].id}; leave --text-encoder out, "
            "or convert the source again with another one"
        )


def _cached_emotion(request: Request) -> Path | Published:
    mode, language = _said(request)
    text_encoder = None
    if mode in FUSION_MODES:
        text_encoder = request.text_encoder or request.registry.text_encoder_id(language)
        if _on_disk(text_encoder).is_dir():
            return _open_emotion(request)  # a local folder may change, and is not kept
    settings = [mode, language, text_encoder, request.weights, request.labels]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    wanted = Wanted(
        request.model_id, request.revision, f"{mode}-{language}-{key}", text_encoder, request.text_encoder is None
    )
    return cached(wanted, lambda: _open_emotion(request))
