"""Converted forms of hub checkpoints, kept in a folder of this user and keyed by the commits they came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, UnreadableInput
from ..runtime.cache_folder import cache_folder
from . import hub
from .engine import convert
from .published import Published
from .record import SCHEMA, is_converted


@dataclass(frozen=True)
class Wanted:
    """A revision of a hub id, converted with some settings.

    text_encoder: the hub id of the frozen text encoder that comes along, where there is one
    own_text_encoder: whether one in the repository itself takes its place
    """

    model_id: str
    revision: str | None
    settings: str  # part of a folder's name
    text_encoder: str | None = None
    own_text_encoder: bool = False


def cached(wanted: Wanted, open_source: Callable[[], Published]) -> Path:
    """The converted form of a hub checkpoint, made from the source where the cache lacks it.

    Where the hub can't be reached, the one that answered last for the revision.
    """
    home = cache_folder() / f"{wanted.model_id.replace('/', '--')}-{wanted.settings}-{SCHEMA}"
    last = home / f"{(wanted.revision or 'main').replace('/', '--')}.txt"
    commit = hub.current_revision(wanted.model_id, wanted.revision)
    if commit is None:
        if last.is_file() and is_converted(folder := home / last.read_text()):
            return folder
    elif (folder := _kept(home, commit, wanted)) is not None:
        _remember(folder, last)
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
            if not is_converted(folder):  # else another process was quicker, with the same result
                raise
    _remember(folder, last)
    return folder


def _kept(home: Path, commit: str, wanted: Wanted) -> Path | None:
    """The conversion of a commit and of the text encoder's newest: any one, where the hub does not tell.

    A folder is called "commit" where the repository holds all there is, else "commit-text encoder's commit".
    """
    own = wanted.text_encoder is None or wanted.own_text_encoder
    kept = [folder for folder in home.glob(commit[:12] + ("*" if own else "-*")) if is_converted(folder)]
    if wanted.text_encoder is not None and any("-" in folder.name for folder in kept):
        newest = hub.current_revision(wanted.text_encoder) or ""
        kept = [folder for folder in kept if folder.name.endswith(newest[:12])]
    return max(kept, key=lambda folder: folder.stat().st_mtime, default=None)


def _remember(folder: Path, last: Path) -> None:
    """Note which folder answered last."""
    with suppress(OSError):  # a shared cache may be read-only
        if not last.is_file() or last.read_text() != folder.name:
            partial = last.with_name(f"{last.name}.{os.getpid()}")
            partial.write_text(folder.name)
            partial.replace(last)
