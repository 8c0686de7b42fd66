"""Find the recordings of a manifest, and copy those at an address to the disk."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ..errors import UnreadableInput
from ..runtime.addresses import disk_path, is_remote
from ..runtime.atomic import atomic_file, first_line
from ..runtime.cache_folder import cache_folder
from ..runtime.progress import progress
from ..runtime.storage import Folder
from .manifest import Manifest, is_inside

_COPIED = "copied.json"  # {file: its state at the address}


def recordings_root(manifest: str, audio_root: str | None) -> str:
    """Return the folder or address that the file names of a manifest are relative to.

    Args:
        manifest: The path or address of the manifest.
        audio_root: The folder or address that the user named. None: that of the manifest.
    """
    above = manifest.rpartition("/")[0] if is_remote(manifest) else os.path.dirname(manifest)
    root = audio_root or (f"{above}/" if above.endswith(":/") else above)  # memory://manifest.csv is in memory://
    return disk_path(root) if root.lower().startswith("file://") else root or "."


def fetch_recordings(manifest: Manifest, root: str) -> str:
    """Return the folder on the disk that a manifest's file names are relative to.

    The files that the manifest names are copied from an address into the cache, unless they are there unchanged. Of a
    packed manifest these are the shards.

    Args:
        manifest: The manifest.
        root: The folder or address of the recordings, see `recordings_root`.

    Raises:
        UnreadableInput: The address can't be reached, or none of the files is there.
    """
    if not is_remote(root):
        return root
    field = "shard" if "shard" in manifest.columns else "filename"
    names = pc.call_function("unique", [manifest.column(field)]).to_pylist()
    wanted = [name for name in names if name and not name.startswith("/") and is_inside(name, None)]
    source = Folder.open(root)
    try:
        present = dict(_states(source, wanted))
    except Exception as error:  # each file system has errors of its own
        raise UnreadableInput(
            f"{root} can't be listed ({first_line(error)}); check the address and the access to it"
        ) from error
    if wanted and not present:
        raise UnreadableInput(
            f"none of the {len(wanted)} {field}s of {manifest.name} is under {root}, such as {wanted[0]}; name the "
            "folder or address of the recordings with --audio-root"
        )
    copy = cache_folder() / "fetched" / hashlib.sha256(root.encode()).hexdigest()[:24]
    copy.mkdir(parents=True, exist_ok=True)
    copied = _read_states(copy / _COPIED)
    todo = [name for name in present if copied.get(name) != present[name] or not (copy / name).is_file()]
    if todo:
        try:
            with progress(f"Copying {len(todo):,} files from {root}", len(todo)) as advance:
                for name in todo:
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    with atomic_file(copy / name) as file, source.open_to_read(name) as remote:
                        while block := remote.read(1 << 22):
                            file.write(block)
                    copied[name] = present[name]
                    advance(1)
        finally:
            with atomic_file(copy / _COPIED) as file:
                file.write(json.dumps(copied).encode())
    return str(copy)


def _states(source: Folder, names: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the files that are there, with size and version. Each folder is listed once."""
    source.files.invalidate_cache()
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(posixpath.dirname(name), []).append(name)
    for folder, members in by_folder.items():
        path = source.path(folder) if folder else source.root
        try:
            entries = source.files.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        files = {each["name"].rpartition("/")[2]: each for each in entries if each["type"] == "file"}
        for name in members:
            if (info := files.get(posixpath.basename(name))) is not None:
                versions = [str(info[key]) for key in ("ETag", "etag", "mtime", "updated", "created") if key in info]
                yield name, [info.get("size"), *versions]


def _read_states(path: Path) -> dict[str, list[Any]]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
