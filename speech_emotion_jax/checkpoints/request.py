"""What a user asks for, and where it is: a hub id, a published folder or a converted folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..convert import CONFIG, Origin, hub, is_whisper, read_json
from ..errors import UnreadableInput
from ..registry import PUBLISHED, Registry, declared_mode
from ..runtime.addresses import is_remote
from ..runtime.cache_folder import cache_folder
from ..runtime.storage import fetch_folder


@dataclass(frozen=True)
class Request:
    """A checkpoint as the user names it.

    Attributes:
        model_id: A hub id, or the path or URL of a published or converted folder.
        mode: "text", "audio", "concat", "mean" or "multihead". None is allowed for a converted folder, which records
            its mode, and required for Whisper.
        language: "es" or "en"; None as for `mode`.
        text_encoder: The frozen text encoder of a fusion mode. None selects the one inside the checkpoint, or else
            the registry's. Emotion checkpoints only.
        revision: A branch, tag or commit on the hub. None selects the main branch.
        weights: "safetensors" or "bin" where a folder holds both.
        labels: Names of the outputs, in order, in place of those in config.json. Emotion checkpoints only.
        registry: The default ids. Emotion checkpoints only.
    """

    model_id: str
    mode: str | None = None
    language: str | None = None
    text_encoder: str | None = None
    revision: str | None = None
    weights: str | None = None
    labels: tuple[str, ...] | None = None
    registry: Registry = PUBLISHED


def names_whisper(request: Request) -> bool:
    """Return whether a request names a Whisper checkpoint.

    Reads config.json alone. A hub id's config.json is downloaded.

    Raises:
        UnreadableInput: There is no such folder or repository, or it has no config.json.
    """
    return declared_mode(request.model_id) is None and is_whisper(read_settings(request))


def read_settings(request: Request) -> dict[str, Any]:
    """Read config.json, which tells the kind of a checkpoint before its weights are downloaded."""
    folder = local_folder(request)
    return read_json(folder / CONFIG if folder else hub.download_config(request.model_id, request.revision))


def local_folder(request: Request) -> Path | None:
    """Return the folder that a request names, or None for a hub id.

    Raises:
        UnreadableInput: The name is neither a folder nor a possible hub id.
    """
    folder = local_path(request.model_id)
    if folder.is_dir():
        return folder
    if not hub.looks_like_hub_id(request.model_id):
        kind = "is a file" if folder.exists() else "does not exist"
        raise UnreadableInput(f"{request.model_id} {kind}; name a hub id, a published folder or a converted folder")
    return None


def local_path(name: str) -> Path:
    """Return the path of that name. A folder on a bucket is copied to the cache first."""
    return fetch_folder(name, cache_folder() / "fetched") if is_remote(name) else Path(name)


def locate(name: str, revision: str | None = None, weights: str | None = None) -> Origin:
    """Return the published folder of that name and what it is called. A hub id is downloaded.

    Raises:
        UnreadableInput: There is no such folder or repository, or the download failed.
    """
    folder = local_path(name)
    if folder.is_dir():
        return Origin.local(folder)
    if not hub.looks_like_hub_id(name):
        raise UnreadableInput(f"{name} is neither a folder nor a hub id; check the path")
    snapshot = hub.download(name, revision, weights)
    return Origin(snapshot.folder, snapshot.model_id, snapshot.revision)
