"""A folder of results, on a disk or on a bucket (gs://, s3://, ... by fsspec), in which a file is whole or not there.

On a disk a file is written beside its place, synced and renamed. A bucket has no atomic rename, and some show a file
before all of it is there; there an empty marker NAME.whole is written after the file, and without it the file counts
as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

from ..errors import InvalidInput, UnreadableInput
from .atomic import whole_folder
from .progress import progress

MARKER = ".whole"
_BLOCK = 1 << 22  # bytes
_PARTIAL = ".partial-"  # what a killed run leaves of a file, on a disk


def in_arrow_memory(file: Any) -> pa.BufferReader:
    """The content of an open file as Arrow's threads may read it.

    Python's files hand out Python's memory, which the threads let go of a little late: a process that ends then aborts.
    """
    copy = pa.BufferOutputStream()
    with file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            copy.write(block)
    return pa.BufferReader(copy.getvalue())


def is_remote(path: str) -> bool:
    """Whether a path names a bucket or another file system: scheme://..."""
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


@dataclass(frozen=True)
class Folder:
    """A folder and its file system."""

    name: str  # as the user gave it
    root: str  # as the file system takes it
    files: Any  # an fsspec file system

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """The folder of that path, which need not exist yet.

        Raises UnreadableInput for a file system that is not, and InvalidInput where a file is in the way.
        """
        name = os.fspath(path)
        if not is_remote(name):
            root = Path(os.path.abspath(name))
            if not (nearest := next(each for each in (root, *root.parents) if each.exists())).is_dir():
                raise InvalidInput(f"{nearest} is a file; name a folder")
            return cls(name, str(root), fsspec.filesystem("file"))
        try:
            files, root = fsspec.url_to_fs(name)
        except (ImportError, ValueError) as error:
            raise UnreadableInput(
                f"{name} can't be reached ({error}); install what serves it, or name a folder"
            ) from error
        return cls(name, root, files)

    @property
    def on_disk(self) -> bool:
        return not is_remote(self.name)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def make(self) -> None:
        """Create the folder, with those above it."""
        self.files.makedirs(self.root, exist_ok=True)

    def names(self) -> list[str]:
        """The whole files in the folder, sorted; none where it does not exist."""
        self.files.invalidate_cache()
        try:
            found = {path.rstrip("/").rpartition("/")[2] for path in self.files.ls(self.root, detail=False)}
        except FileNotFoundError:
            return []
        if self.on_disk:
            return sorted(name for name in found if not name.startswith(_PARTIAL))
        return sorted(name for name in found if name + MARKER in found)

    def holds(self, name: str) -> bool:
        """Whether a whole file of that name is there."""
        self.files.invalidate_cache()  # another host may have written it
        return self.files.exists(self.path(name) if self.on_disk else self.path(name + MARKER))

    def read(self, name: str) -> bytes:
        return self.files.cat_file(self.path(name))

    def open_to_read(self, name: str) -> Any:
        """A binary file; those of fsspec's buckets are no IO to type checkers."""
        return self.files.open(self.path(name), "rb")

    def open_to_arrow(self, name: str) -> Any:
        """A file for Arrow, see `in_arrow_memory`: its path, or the content where Arrow knows no way."""
        return self.path(name) if self.on_disk else in_arrow_memory(self.open_to_read(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write into, which is there at the end, or not at all where the block fails."""
        if not self.on_disk:
            self.remove(name)
            with self.files.open(self.path(name), "wb") as file:
                yield file
            self.files.pipe_file(self.path(name + MARKER), b"")
            return
        partial = Path(self.root, f"{_PARTIAL}{uuid.uuid4()}")
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path(name))
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, where it is there; on a bucket its marker first."""
        for each in [name] if self.on_disk else [name + MARKER, name]:
            if self.files.exists(self.path(each)):
                self.files.rm_file(self.path(each))


def fetched(path: str, cache: Path) -> Path:
    """A bucket's folder on the disk: copied once, and anew where its listing has changed.

    Raises UnreadableInput where it isn't there, or a name in it leaves it.
    """
    source = Folder.open(path)
    listing = {}
    for name, info in sorted(source.files.find(source.root, detail=True).items()):
        relative = name.removeprefix(source.root).lstrip("/")
        if ".." in relative.split("/"):
            raise UnreadableInput(f"{path} has a file {relative!r}, which leaves the folder; don't use it")
        listing[relative] = [info.get("size"), *(str(info[key]) for key in ("etag", "mtime", "updated") if key in info)]
    if not listing:
        raise UnreadableInput(f"{path} is no folder or empty; check the path")
    copy = cache / hashlib.sha256(json.dumps([path, listing]).encode()).hexdigest()[:24]
    if not copy.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with whole_folder(copy) as folder, progress(f"Fetching {path}", len(listing)) as advance:
            for name in listing:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source.files.get_file(source.path(name), str(target))
                advance(1)
    return copy
