"""Finds a checkpoint by what the user calls it, and loads it: a hub id, a published folder or a converted one.

A hub id is downloaded and converted once; the converted folder is kept in a cache keyed by the commits, and everything
after that works without network. A published folder is read in place.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from .config import EmotionConfig
from .convert.engine import convert
from .convert.published import CONFIG, Origin, Published, open_published
from .convert.sources import read_json
from .errors import InvalidInput, UnreadableInput
from .models.emotion import EmotionModel
from .models.parameters import parameter_shapes, with_parameters
from .registry import FUSION_MODES, PUBLISHED, Registry, check_language, check_mode, declared_mode
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
    mode, language = _said(request)
    if (declared := declared_mode(request.model_id)) not in (None, mode):  # before anything is downloaded
        raise InvalidInput(f"{request.model_id} is a checkpoint of mode {declared!r}; use --mode {declared}")
    model = _origin(request.model_id, request.revision, request.weights)
    text_encoder = None
    if mode in FUSION_MODES:
        read_json(model.folder / CONFIG)  # before another download for a folder that is no model
        text_encoder = _text_encoder(model, request.text_encoder, request.registry.text_encoder_id(language))
    return open_published(
        model,
        mode,
        language,
        text_encoder=text_encoder,
        weights=request.weights,
        labels=request.labels,
    )


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
    mode, language = _said(request)
    text_encoder = None
    if mode in FUSION_MODES:
        text_encoder = request.text_encoder or request.registry.text_encoder_id(language)
        if Path(text_encoder).is_dir():
            return open_request(request)  # a local folder may change, and is not kept
    settings = [mode, language, text_encoder, request.weights, request.labels]
    settings_key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    home = cache_folder() / f"{request.model_id.replace('/', '--')}-{mode}-{language}-{settings_key}"
    # Which folder answered last for this revision, for when the hub can't be reached.
    last = home / f"{(request.revision or 'main').replace('/', '--')}.txt"
    commit = hub.current_revision(request.model_id, request.revision)
    if commit is None:
        if last.is_file() and is_converted(folder := home / last.read_text()):
            return folder
    elif (folder := _kept(home, commit, text_encoder, request)) is not None:
        _remember(folder, last)
        return folder
    try:
        published = open_request(request)
    except UnreadableInput as error:
        if commit is not None:
            raise
        raise UnreadableInput(
            f"{error}; no folder has that name, and no conversion of it is in {cache_folder()}"
        ) from error
    commits = dict.fromkeys(str(part.origin.revision) for part in published.parts.values())
    folder = home / "-".join(commit[:12] for commit in commits)
    if not is_converted(folder):
        try:
            convert(published, folder)
        except InvalidInput:
            if not is_converted(folder):  # else another process was quicker, with the same result
                raise
    _remember(folder, last)
    return folder


def _kept(home: Path, commit: str, text_encoder: str | None, request: Request) -> Path | None:
    """The conversion of a commit and of the text encoder's newest: any one, where the hub does not tell.

    A folder is called "commit" where the repository holds all there is, else "commit-text encoder's commit".
    """
    pattern = "-*" if request.text_encoder else "*"
    kept = [folder for folder in home.glob(commit[:12] + pattern) if is_converted(folder)]
    if text_encoder is not None and any("-" in folder.name for folder in kept):
        newest = hub.current_revision(text_encoder) or ""
        kept = [folder for folder in kept if folder.name.endswith(newest[:12])]
    return max(kept, key=lambda folder: folder.stat().st_mtime, default=None)


def _remember(folder: Path, last: Path) -> None:
    with suppress(OSError):  # a shared cache may be read-only
        if not last.is_file() or last.read_text() != folder.name:
            partial = last.with_name(f"{last.name}.{os.getpid()}")
            partial.write_text(folder.name)
            partial.replace(last)
