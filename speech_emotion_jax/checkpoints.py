"""Finds a checkpoint by what the user calls it, and loads it: a hub id, a published folder or a converted one.

A hub id is downloaded and converted once; the converted folder is kept in a cache keyed by the commits, and everything
after that works without network. A published folder is read in place.
"""

from __future__ import annotations

import hashlib
import json
import os

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from .config import EmotionConfig
from .convert.engine import convert
from .convert.published import Origin, Published, open_published
from .convert.sources import read_json
from .errors import InvalidInput, UnreadableInput
from .models.emotion import EmotionModel
from .models.parameters import parameter_shapes, with_parameters
from .registry import FUSION_MODES, PUBLISHED, Registry, check_language, check_mode
from .runtime import hub
from .runtime.checkpoint import TEXT_ENCODER, is_converted, load_parameters, read_record
from .runtime.precision import check_precision, parameter_dtype
from .runtime.progress import progress


@dataclass(frozen=True)
class Request:
    """What the user asked for. `mode` and `language` may be None for a converted folder, which knows its own."""

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
    """A model in memory, and where its preprocessor (`folder`) and tokenizer (`text_folder`) are."""

    model: EmotionModel
    config: EmotionConfig
    language: str
    folder: Path
    text_folder: Path

    @property
    def padding_value(self) -> float:
        """What the features are padded with: it fills the second half of an odd last frame."""
        return float(read_json(self.folder / "preprocessor_config.json").get("padding_value", 0.0))


def cache_folder() -> Path:
    """Where converted hub checkpoints are kept: $SPEECH_EMOTION_JAX_CACHE, else ~/.cache/speech_emotion_jax."""
    if folder := os.environ.get("SPEECH_EMOTION_JAX_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speech_emotion_jax"


def load_checkpoint(request: Request, device: jax.Device, precision: str) -> Checkpoint:
    """Load a model onto a device, its encoders' matrices in the given precision.

    Raises UnreadableInput for what is missing or broken and InvalidInput for what does not fit the request.
    """
    check_precision(precision)
    found = find(request)
    if isinstance(found, Path):
        return _load_converted(found, device, precision)
    return _load_published(found, device, precision)


def find(request: Request) -> Path | Published:
    """The converted folder that answers a request, or the published folder where there is no converted one.

    A hub id is downloaded and converted into the cache where it is not there yet.
    """
    folder = Path(request.model_id)
    if folder.is_dir():
        if is_converted(folder):
            _check_record(folder, request)
            return folder
        return open_request(request)
    if not hub.looks_like_hub_id(request.model_id):
        kind = "is a file" if folder.exists() else "does not exist"
        raise UnreadableInput(f"{request.model_id} {kind}; name a hub id, a published folder or a converted folder")
    return _cached(request)


def open_request(request: Request) -> Published:
    """The published checkpoint of a request, hub ids downloaded."""
    if request.mode is None or request.language is None:
        raise InvalidInput(
            f"{request.model_id} is a published checkpoint, which does not say its mode; pass mode and language"
        )
    model = _origin(request.model_id, request.revision, request.weights)
    text_encoder = None
    if check_mode(request.mode) in FUSION_MODES:
        name = request.text_encoder
        if name is None and (model.folder / TEXT_ENCODER / "config.json").is_file():
            name = str(model.folder / TEXT_ENCODER)
        text_encoder = _origin(name or request.registry.text_encoder_id(request.language), None, None)
    return open_published(
        model,
        request.mode,
        request.language,
        text_encoder=text_encoder,
        weights=request.weights,
        labels=request.labels,
    )


def _origin(name: str, revision: str | None, weights: str | None) -> Origin:
    folder = Path(name)
    if folder.is_dir():
        return Origin.local(folder)
    if not hub.looks_like_hub_id(name):
        raise UnreadableInput(f"{name} is no folder and no hub id; check the path")
    snapshot = hub.download(name, revision, weights)
    return Origin(snapshot.folder, snapshot.model_id, snapshot.revision)


def _check_record(folder: Path, request: Request) -> None:
    record = read_record(folder)
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


def _load_converted(folder: Path, device: jax.Device, precision: str) -> Checkpoint:
    record = read_record(folder)
    sharding = SingleDeviceSharding(device)
    wanted = {
        path: jax.ShapeDtypeStruct(shape, parameter_dtype(path, precision), sharding=sharding)
        for path, shape in parameter_shapes(record.config).items()
    }
    with progress(f"Loading {folder.name}"):
        model = with_parameters(record.config, load_parameters(folder, wanted))
    text_folder = folder / TEXT_ENCODER if TEXT_ENCODER in record.parts else folder
    return Checkpoint(model, record.config, record.language, folder, text_folder)


def _load_published(published: Published, device: jax.Device, precision: str) -> Checkpoint:
    total = sum(len(part.source.tensors) for part in published.parts.values())
    arrays = {}
    with progress("Reading tensors", total) as advance:
        for path, array in published.parameters(advance):
            arrays[path] = jax.device_put(np.asarray(array, parameter_dtype(path, precision)), device)
    folders = {name: part.origin.folder for name, part in published.parts.items()}
    model = with_parameters(published.config, arrays)
    folder = folders["model"]
    return Checkpoint(model, published.config, published.language, folder, folders.get(TEXT_ENCODER, folder))


def _cached(request: Request) -> Path | Published:
    """The converted form of a hub checkpoint, made if it is not in the cache."""
    if request.mode is None or request.language is None:
        raise InvalidInput(f"{request.model_id} is a hub id, which does not say its mode; pass mode and language")
    text_encoder = None
    if check_mode(request.mode) in FUSION_MODES:
        text_encoder = request.text_encoder or request.registry.text_encoder_id(request.language)
        if Path(text_encoder).is_dir():
            return open_request(request)  # a local folder may change, and is not kept
    settings = [request.mode, request.language, text_encoder, request.weights, request.labels]
    settings_key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    home = cache_folder() / f"{request.model_id.replace('/', '--')}-{request.mode}-{request.language}-{settings_key}"
    # Which commits the names stood for when they were last seen, for when the hub can't be reached.
    known = home / f"{request.revision or 'main'}.json".replace("/", "--")
    commits = [hub.current_revision(request.model_id, request.revision)]
    if text_encoder is not None:
        commits.append(hub.current_revision(text_encoder))
    if None in commits and known.is_file():
        commits = json.loads(known.read_text())
    if None not in commits and is_converted(folder := home / "-".join(commit[:12] for commit in commits)):
        return folder
    published = open_request(request)
    commits = [part.origin.revision for part in published.parts.values()]
    folder = home / "-".join(str(commit)[:12] for commit in commits)
    if not is_converted(folder):
        try:
            convert(published, folder)
        except InvalidInput:
            if not is_converted(folder):  # else another process was quicker, with the same result
                raise
    partial = known.with_name(f"{known.name}.{os.getpid()}")
    partial.write_text(json.dumps(commits))
    partial.replace(known)
    return folder
