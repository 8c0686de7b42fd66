"""Arrays on disk: one uncompressed Orbax checkpoint in a folder, written by Orbax and mapped into memory by hand.

Mapping returns at once and copies nothing on a CPU; `ocp.load` reads every byte into new memory first. Any other layout
of Orbax (compressed, in chunks, in one database) is read by `ocp.load`.
tests/test_stored_weights.py compares both ways.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import UnreadableInput
from .atomic import first_line
from .compat import as_os_error
from .parameter_tree import nest

WEIGHTS = "weights"
_STATE = "state"  # what Orbax calls the arrays that it saves without a name
_INDEX_BYTES = 20  # behind a chunk: its offset, its size, their CRC-32C


def save_parameters(folder: Path, parameters: dict[str, np.ndarray]) -> None:
    """Write {path: array} as an Orbax checkpoint, in the arrays' own dtypes. Raises OSError where the disk is full."""
    from orbax.checkpoint import v1 as ocp

    # Orbax's defaults copy all arrays first, compress, and pack small files: 2.8 times the tree at the peak.
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = 500_000_000
    context.memory.transfer_concurrent_bytes = 500_000_000
    context.array.saving.use_ocdbt = False
    context.array.saving.use_compression = False
    try:
        with context, quiet_orbax():
            ocp.save(os.path.abspath(folder / WEIGHTS), nest(dict(sorted(parameters.items()))))
    except ValueError as error:
        raise as_os_error(error) from error


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Orbax warns of the absence of packed files, which are not wanted, and logs what it raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_parameters(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read these parameters, all that there are or some, straight into the dtypes and shardings of `wanted`.

    Returns at once: the files are mapped, and are read, copied to devices and cast while the caller goes on. A CPU
    copies nothing but what it casts: its arrays are the files, on however many devices. Raises UnreadableInput.
    """
    state = folder / WEIGHTS / _STATE
    if (state / "manifest.ocdbt").exists():  # all arrays in one database
        return _loaded_by_orbax(folder, wanted, state)
    present = {path.name for path in state.glob("*")}
    if missing := sorted(wanted.keys() - present):
        raise UnreadableInput(f"{folder / WEIGHTS} has no {', '.join(missing)}; convert the source again")
    arrays = {}
    for path, asked in wanted.items():
        try:
            stored = _mapped(state / path, asked.shape)
        except _UnknownLayoutError:
            return _loaded_by_orbax(folder, wanted, state / path)
        # Orbax would read each file into memory and copy it from there, which takes seconds.
        array = jax.device_put(stored, asked.sharding)
        arrays[path] = array if array.dtype == asked.dtype else array.astype(asked.dtype)
    return arrays


class _UnknownLayoutError(Exception):
    """The array is stored in another way than `save_parameters` has it stored: compressed, or in several chunks."""


def _loaded_by_orbax(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], unknown: Path) -> dict[str, jax.Array]:
    """Read the parameters by Orbax's public interface, which knows every layout that Orbax has written.

    Args:
        folder: The folder that holds `weights/`.
        wanted: The path, shape, dtype and sharding of each parameter.
        unknown: What has the other layout, to be named where Orbax can't read it either.

    Returns:
        {path: array}.

    Raises:
        UnreadableInput: Orbax can't read it.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context, quiet_orbax():
            tree: Any = ocp.load(os.path.abspath(folder / WEIGHTS), nest(dict(wanted)))
        return {path: reduce(lambda node, name: node[name], path.split("."), tree) for path in wanted}
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:  # of many kinds
        raise UnreadableInput(
            f"{unknown} can't be read ({first_line(error)[:200]}); convert the source again"
        ) from error


def _mapped(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map an array as `save_parameters` has it written: one uncompressed chunk of Zarr 3, and behind it its place.

    Raises:
        UnreadableInput: The array is damaged, or has another shape.
        _UnknownLayoutError: It is compressed, or divided into chunks.
    """
    file = folder.joinpath("c", *["0"] * len(shape))
    try:
        description = json.loads((folder / "zarr.json").read_bytes())
        if description["shape"] != list(shape):
            raise ValueError(f"shape {description['shape']}")
        if description["codecs"] != _codecs(shape):
            raise _UnknownLayoutError
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # what writes to it leaves the file alone
        array = np.ndarray(shape, np.dtype(description["data_type"]), content)
        place = struct.unpack_from("<QQ", content, array.nbytes)
        if place != (0, array.nbytes) or len(content) != array.nbytes + _INDEX_BYTES:
            raise ValueError(f"{len(content)} bytes, of which the array's are {place}")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UnreadableInput(
            f"{folder} can't be read ({first_line(error)[:200]}); convert the source again"
        ) from error
    if hasattr(mmap, "MADV_WILLNEED"):
        content.madvise(mmap.MADV_WILLNEED)
    return array


def _codecs(shape: tuple[int, ...]) -> list[Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    index = [little, {"name": "crc32c"}]
    chunk = {"chunk_shape": list(shape), "codecs": [little], "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": chunk}]
