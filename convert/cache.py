"""A cache of converted hub checkpoints in the user's cache folder, under the commits they came from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, UnreadableInput
from ..runtime.atomic import atomic_file
from ..runtime.cache_folder import cache_folder
from . import hub
from .engine import convert
from .published import PublishedCheckpoint
from .record import SCHEMA, is_converted


@dataclass(frozen=True)
class ConversionKey:
    """A revision of a hub id, converted with some settings.

    Attributes:
        model_id: The hub id.
        revision: A branch, tag or commit. None selects the main branch.
        settings: The settings, as part of a folder's name.
        text_encoder: The hub id of the frozen text encoder that is converted with the model, if any.
        prefers_own_text_encoder: Whether a text encoder inside the repository itself takes its place.
    """

    model_id: str
    revision: str | None
    settings: str
    text_encoder: str | None = None
    prefers_own_text_encoder: bool = False


def cached_conversion(key: ConversionKey, open_source: Callable[[], PublishedCheckpoint]) -> Path:
    """Return the converted form of a hub checkpoint. Convert the source if the cache does not hold it.

    If the hub can't be reached, return the conversion that was last used for this revision.

    Args:
        key: What to look for.
        open_source: Downloads and opens the published checkpoint. Called only if a conversion is needed.

    Raises:
        UnreadableInput: The hub can't be reached and nothing is cached, or the download failed.
        InvalidInput: The checkpoint can't be converted.
    """
    home = cache_folder() / f"{key.model_id.replace('/', '--')}-{key.settings}-{SCHEMA}"
    last_used = home / f"{(key.revision or 'main').replace('/', '--')}.txt"
    commit = hub.current_revision(key.model_id, key.revision)
    if commit is None:
        if last_used.is_file() and is_converted(folder := home / last_used.read_text()):
            return folder
    elif (folder := _find_conversion(home, commit, key)) is not None:
        _write_last_used(folder, last_used)
        return folder
    try:
        published = open_source()
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
            # The destination may exist by now: another process converted the same checkpoint.
            if not is_converted(folder):
                raise
    _write_last_used(folder, last_used)
    return folder


def _find_conversion(home: Path, commit: str, key: ConversionKey) -> Path | None:
    """Return the conversion of a commit together with the newest commit of its text encoder.

    If the hub does not tell the newest commit, any conversion will do. A folder is named "commit" where the repository
    holds everything, and "commit-text encoder's commit" otherwise.
    """
    complete = key.text_encoder is None or key.prefers_own_text_encoder
    folders = [folder for folder in home.glob(commit[:12] + ("*" if complete else "-*")) if is_converted(folder)]
    if key.text_encoder is not None and any("-" in folder.name for folder in folders):
        newest = hub.current_revision(key.text_encoder) or ""
        folders = [folder for folder in folders if folder.name.endswith(newest[:12])]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _write_last_used(folder: Path, last_used: Path) -> None:
    with suppress(OSError):  # A shared cache may be read-only.
        if not last_used.is_file() or last_used.read_text() != folder.name:
            with atomic_file(last_used) as file:
                file.write(folder.name.encode())
