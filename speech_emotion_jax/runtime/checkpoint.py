"""The converted checkpoint: one self-contained folder that holds all a prediction needs.

    record.json            schema version, kind, language, architecture, labels, where it came from, every source tensor
    config.json, preprocessor_config.json, tokenizer files, ...    the source's own files, unchanged
    text_encoder/          the same of the frozen text encoder (fusion modes)
    weights/               the parameters, an Orbax checkpoint, in the dtypes of the source
    unused.safetensors     tensors of the source that take no part in the computation; also in text_encoder/

The folder is written beside its destination and renamed when it is whole: what a killed run leaves does not load. It is
never written to again: processes that use it have its weights mapped into their memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import mmap
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import Architecture, EmotionConfig, WhisperConfig
from ..errors import InvalidInput, SpeechEmotionError, UnreadableInput

SCHEMA = 2  # since which SpecAugment's vector is a parameter
RECORD = "record.json"
WEIGHTS = "weights"
MODEL, TEXT_ENCODER = "model", "text_encoder"
UNUSED = "unused.safetensors"
_STATE = "state"  # what Orbax calls the arrays that it saves without a name
_INDEX_BYTES = 20  # behind a chunk: its offset, its size, their CRC-32C
ARCHITECTURES = {config.kind: config for config in (EmotionConfig, WhisperConfig)}


@dataclass(frozen=True)
class Part:
    """One source folder: that of the model, or that of its frozen text encoder."""

    id: str  # hub id, or the path it was read from
    revision: str | None  # commit on the hub
    sha256: Mapping[str, str]  # {weight file: digest}
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]  # {name: (dtype, shape)}, all of them


@dataclass(frozen=True)
class Record:
    """What a converted folder says of itself."""

    language: str | None  # that of an emotion checkpoint
    config: Architecture
    parts: Mapping[str, Part]  # "model", and "text_encoder" in the fusion modes
    files: Mapping[str, int]  # {path in the folder: size in bytes}, all but the record
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps({"kind": self.config.kind, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises ValueError, KeyError or TypeError for what is no record."""
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']}")
        # The first records name no kind: there was one.
        config = ARCHITECTURES[value.get("kind", EmotionConfig.kind)].from_record(value["config"])
        parts = {}
        for name, part in value["parts"].items():
            tensors = {key: (dtype, tuple(shape)) for key, (dtype, shape) in part["tensors"].items()}
            parts[name] = Part(part["id"], part["revision"], part["sha256"], tensors)
        return cls(value["language"], config, parts, value["files"])


def is_converted(folder: Path) -> bool:
    """Whether a folder is a converted checkpoint (and not a published one)."""
    return (folder / RECORD).is_file()


def file_sizes(folder: Path) -> dict[str, int]:
    """{path in the folder: size in bytes} of all files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def read_record(folder: Path) -> Record:
    """The record of a folder that is whole.

    Raises UnreadableInput where the folder has none, or where a file is missing or cut off, as after a copy that broke
    off; InvalidInput where the record is of another version or broken.
    """
    try:
        data = (folder / RECORD).read_bytes()
    except OSError as error:
        raise UnreadableInput(f"{folder} is no converted checkpoint: it has no {RECORD}; convert it first") from error
    try:
        record = Record.from_json(data.decode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(
            f"{folder / RECORD} can't be read by this version ({reason}); convert the source again"
        ) from error
    present = file_sizes(folder)
    if damaged := [name for name, size in record.files.items() if present.get(name) != size]:
        named = ", ".join(damaged[:3]) + (f" and {len(damaged) - 3} more" if damaged[3:] else "")
        raise UnreadableInput(f"{folder} is not whole ({named}); remove it, and copy it or convert its source again")
    return record


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into that becomes `destination` at the end, or vanishes when writing fails.

    Raises InvalidInput where the destination exists and UnreadableInput where it can't be written.
    """
    taken = InvalidInput(f"{destination} exists already; name another destination or remove it")
    if destination.exists():
        raise taken
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.unfinished-", dir=destination.parent))
    except OSError as error:
        raise UnreadableInput(f"{destination} can't be made ({error.strerror or error}); name another one") from error
    try:
        staging.chmod(0o777 & ~umask())  # mkdtemp's folders are private
        yield staging
        try:
            os.rename(staging, destination)
        except OSError as error:
            raise taken from error
    except BaseException as error:
        _remove(staging)
        if isinstance(error, OSError) and not isinstance(error, SpeechEmotionError):
            reason = error.strerror or _first_line(error)
            raise UnreadableInput(
                f"{destination} can't be written ({reason}); make room or name another destination"
            ) from error
        raise


def _remove(folder: Path) -> None:
    """Remove a folder for good: when one of Orbax's writers has failed, the others may be at work for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def ask_for_room(folder: Path, size: int) -> None:
    """Raises OSError where the disk has no room for so many bytes.

    To be asked before Orbax writes, which prints a traceback for each array that it could not write.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)


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
            ocp.save(os.path.abspath(folder / WEIGHTS), _nested(parameters))
    except ValueError as error:
        raise as_os_error(error) from error


def as_os_error(error: Exception) -> Exception:
    """What the operating system said, which Orbax hides in its text; else the error itself."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return error if code is None else OSError(int(code[1]), os.strerror(int(code[1])))


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
    present = {path.name for path in (folder / WEIGHTS / _STATE).glob("*")}
    if missing := sorted(wanted.keys() - present):
        raise UnreadableInput(f"{folder / WEIGHTS} has no {', '.join(missing)}; convert the source again")
    arrays = {}
    for path, asked in wanted.items():
        # Orbax would read each file into memory and copy it from there, which takes seconds.
        array = jax.device_put(_mapped(folder / WEIGHTS / _STATE / path, asked.shape), asked.sharding)
        arrays[path] = array if array.dtype == asked.dtype else array.astype(asked.dtype)
    return arrays


def _mapped(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array as `save_parameters` has it written: one uncompressed chunk of Zarr 3, and behind it where that is."""
    file = folder.joinpath("c", *["0"] * len(shape))
    try:
        description = json.loads((folder / "zarr.json").read_bytes())
        if description["shape"] != list(shape) or description["codecs"] != _codecs(shape):
            raise ValueError(f"shape {description['shape']}, codecs {description['codecs']}")
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # what writes to it leaves the file alone
        array = np.ndarray(shape, np.dtype(description["data_type"]), content)
        place = struct.unpack_from("<QQ", content, array.nbytes)
        if place != (0, array.nbytes) or len(content) != array.nbytes + _INDEX_BYTES:
            raise ValueError(f"{len(content)} bytes, of which the array's are {place}")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UnreadableInput(
            f"{folder} can't be read ({_first_line(error)[:200]}); convert the source again"
        ) from error
    if hasattr(mmap, "MADV_WILLNEED"):
        content.madvise(mmap.MADV_WILLNEED)
    return array


def _codecs(shape: tuple[int, ...]) -> list[Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    index = [little, {"name": "crc32c"}]
    chunk = {"chunk_shape": list(shape), "codecs": [little], "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": chunk}]


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(flat):
        *stems, last = path.split(".")
        node = tree
        for stem in stems:
            node = node.setdefault(stem, {})
        node[last] = flat[path]
    return tree
