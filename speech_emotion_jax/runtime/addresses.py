"""Addresses of places that are not paths: gs://bucket/folder, s3://..., file:///folder, by fsspec."""

from __future__ import annotations

import os
import re

from ..errors import InvalidInput, UnreadableInput

_SCHEME = "[a-z][a-z0-9+.-]+"  # two letters at least: C:/ is a drive
_ADDRESS = re.compile(f"({_SCHEME})://", re.IGNORECASE)
_HALF_ADDRESS = re.compile(f"{_SCHEME}:([:/]|$)", re.IGNORECASE)


def is_remote(path: str) -> bool:
    """Return whether a path is an address, scheme://..., of a bucket or another file system."""
    return _ADDRESS.match(path) is not None


def check_address(path: str) -> str:
    """Check that a path is one on a disk, or an address that an installed package serves.

    Returns:
        The path.

    Raises:
        InvalidInput: It is half an address, such as gs:/bucket, from which a folder "gs:" would be made.
        UnreadableInput: No installed package serves the address.
    """
    if (address := _ADDRESS.match(path)) is not None:
        import fsspec

        try:
            fsspec.get_filesystem_class(address[1])
        except (ImportError, ValueError) as error:
            raise UnreadableInput(
                f"{path} can't be reached ({error}); install the package for it, or name a place on a disk"
            ) from error
    elif _HALF_ADDRESS.match(path):
        raise InvalidInput(f"{path} is neither a path nor an address; write an address as SCHEME://...")
    return path


def disk_path(path: str | os.PathLike[str]) -> str:
    """Return the path of a place that has to be on a disk. file:///folder is one.

    Raises:
        InvalidInput: It is another address.
    """
    name = os.fspath(path)
    if name.lower().startswith("file://"):
        import fsspec

        return fsspec.url_to_fs("file" + name[4:])[1]
    if _ADDRESS.match(name) or _HALF_ADDRESS.match(name):
        raise InvalidInput(
            f"{name} is an address, and this has to be on a disk; name a place on a disk, and copy from or to the "
            "address"
        )
    return name
