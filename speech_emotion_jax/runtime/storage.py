"""Folders of results on a disk or a bucket (gs://, s3://, ... by fsspec), in which a file is complete or absent.

On a disk a file is written by `atomic_file`. A bucket has no atomic rename, and some buckets list a file before its
upload is complete. So an empty marker NAME.whole is written after the file, and a file without its marker is absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

from ..errors import InvalidInput, UnreadableInput
from .addresses import check_address, is_remote
from .atomic import PARTIAL, atomic_file, atomic_folder
from .progress import progress

MARKER = ".whole"
_BLOCK = 1 << 22  # bytes


def arrow_buffer(file: Any) -> pa.BufferReader:
    """Copy an open binary file into Arrow's memory, and close the file.

    If Arrow reads a Python file, its threads hold Python's memory. They may release it while the interpreter ends, and
    the process then aborts.
    """
    copy = pa.BufferOutputStream()
    with file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            copy.write(block)
    return pa.BufferReader(copy.getvalue())


@dataclass(frozen=True)
class Folder:
    """A folder and its file system.

    Attributes:
        name: the path or URL that the user gave.
        root: the folder's path in its file system.
        files: the fsspec file system.
    """

    name: str
    root: str
    files: Any

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """Return the folder of a path or URL. It need not exist.

        Raises:
            UnreadableInput: if no installed package serves the URL.
            InvalidInput: if the path, or one above it, is a file, or it is half a URL.
        """
        name = check_address(os.fspath(path))
        if not is_remote(name):
            root = Path(os.path.abspath(name))
            if not (nearest := next(each for each in (root, *root.parents) if each.exists())).is_dir():
                raise InvalidInput(f"{nearest} is a file; name a folder")
            return cls(name, str(root), fsspec.filesystem("file"))
        try:
            files, root = fsspec.url_to_fs(name)
        except (ImportError, ValueError) as error:
            raise UnreadableInput(
                f"{name} can't be reached ({error}); install the package for it, or name a folder on a disk"
            ) from error
        return cls(name, root, files)

    @property
    def on_disk(self) -> bool:
        """Whether the folder is on a disk, not on a bucket."""
        return not is_remote(self.name)

    def path(self, name: str) -> str:
        """Return the path of a file in the file system `files`."""
        return f"{self.root}/{name}"

    def make(self) -> None:
        """Make the folder and its parents."""
        self.files.makedirs(self.root, exist_ok=True)

    def names(self) -> list[str]:
        """Return the sorted names of the complete files; none if the folder does not exist."""
        self.files.invalidate_cache()
        try:
            present = {path.rstrip("/").rpartition("/")[2] for path in self.files.ls(self.root, detail=False)}
        except FileNotFoundError:
            return []
        if self.on_disk:
            return sorted(name for name in present if not name.startswith(PARTIAL))
        return sorted(name for name in present if name + MARKER in present)

    def holds(self, name: str) -> bool:
        """Return whether a complete file of that name is there."""
        self.files.invalidate_cache()  # another host may have written it
        return self.files.exists(self.path(name) if self.on_disk else self.path(name + MARKER))

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return self.files.cat_file(self.path(name))

    def open_to_read(self, name: str) -> Any:
        """Open a binary file. The type is Any, because fsspec's files are no IO to type checkers."""
        return self.files.open(self.path(name), "rb")

    def open_to_arrow(self, name: str) -> Any:
        """Return what Arrow can read of a file: its path on a disk, else its content; see `arrow_buffer`."""
        return self.path(name) if self.on_disk else arrow_buffer(self.open_to_read(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing one of that name."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a binary file that replaces `name` when the block ends without an error.

        If the block raises, a disk keeps the file of before, and a bucket has none of that name.
        """
        if not self.on_disk:
            self.remove(name)
            with self.files.open(self.path(name), "wb") as file:
                yield file
            self.files.pipe_file(self.path(name + MARKER), b"")
            return
        with atomic_file(self.path(name)) as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file if it exists. On a bucket the marker goes first, so a half-removed file is absent."""
        for each in [name] if self.on_disk else [name + MARKER, name]:
            if self.files.exists(self.path(each)):
                self.files.rm_file(self.path(each))


def fetch_folder(path: str, cache: Path) -> Path:
    """Copy a bucket's folder to the disk, unless an earlier copy has the same listing.

    Args:
        path: the URL of the folder.
        cache: the folder for copies.

    Returns:
        The folder of the copy in `cache`.

    Raises:
        UnreadableInput: if the folder is missing or empty, or a file's name points outside it.
    """
    source = Folder.open(path)
    listing = {}
    for name, info in sorted(source.files.find(source.root, detail=True).items()):
        relative = name.removeprefix(source.root).lstrip("/")
        if ".." in relative.split("/"):
            raise UnreadableInput(f"{path} has a file {relative!r}, which is outside the folder; don't use it")
        listing[relative] = [info.get("size"), *(str(info[key]) for key in ("etag", "mtime", "updated") if key in info)]
    if not listing:
        raise UnreadableInput(f"{path} is empty or not a folder; check the path")
    copy = cache / hashlib.sha256(json.dumps([path, listing]).encode()).hexdigest()[:24]
    if not copy.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_folder(copy) as folder, progress(f"Fetching {path}", len(listing)) as advance:
            for name in listing:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source.files.get_file(source.path(name), str(target))
                advance(1)
    return copy
