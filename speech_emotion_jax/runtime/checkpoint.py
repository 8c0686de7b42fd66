"""The converted checkpoint: one self-contained folder that holds all a prediction needs.

    record.json            schema version, language, architecture and labels, where it came from, every source tensor
    config.json, preprocessor_config.json, tokenizer files    the source's own files, unchanged
    text_encoder/          the same of the frozen text encoder (fusion modes)
    weights/               the parameters, an Orbax checkpoint, in the dtypes of the source
    unused.safetensors     tensors of the source that take no part in the computation; also in text_encoder/

The folder is written beside its destination and renamed when it is whole: what a killed run leaves does not load.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput, UnreadableInput

SCHEMA = 1
RECORD = "record.json"
WEIGHTS = "weights"
TEXT_ENCODER = "text_encoder"
UNUSED = "unused.safetensors"


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

    language: str
    config: EmotionConfig
    parts: Mapping[str, Part]  # "model", and "text_encoder" in the fusion modes
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises ValueError, KeyError or TypeError for what is no record."""
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']}")
        config = dict(value["config"], labels=tuple(value["config"]["labels"]))
        config["audio"] = config["audio"] and Wav2Vec2BertConfig(**config["audio"])
        config["text"] = config["text"] and BertConfig(**config["text"])
        parts = {}
        for name, part in value["parts"].items():
            tensors = {key: (dtype, tuple(shape)) for key, (dtype, shape) in part["tensors"].items()}
            parts[name] = Part(part["id"], part["revision"], part["sha256"], tensors)
        return cls(value["language"], EmotionConfig(**config), parts)


def is_converted(folder: Path) -> bool:
    """Whether a folder is a converted checkpoint (and not a published one)."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> Record:
    """Raises UnreadableInput where the folder has none, InvalidInput where it is of another version or broken."""
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableInput(f"{folder} is no converted checkpoint: it has no {RECORD}; convert it first") from error
    try:
        return Record.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{folder / RECORD} can't be read by this version ({type(error).__name__}: {error}); convert the source again"
        ) from error


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into that becomes `destination` at the end, or vanishes when writing fails.

    Raises InvalidInput where the destination exists.
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
        staging.chmod(0o777 & ~_umask())  # mkdtemp's folders are private
        yield staging
        try:
            os.rename(staging, destination)
        except OSError as error:
            raise taken from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_parameters(folder: Path, parameters: dict[str, np.ndarray]) -> None:
    """Write {path: array} as an Orbax checkpoint, in the arrays' own dtypes."""
    from orbax.checkpoint import v1 as ocp

    # Orbax's defaults copy all arrays first, compress, and pack small files: 2.8 times the tree at the peak.
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = 500_000_000
    context.memory.transfer_concurrent_bytes = 500_000_000
    context.array.saving.use_ocdbt = False
    context.array.saving.use_compression = False
    with context, _quiet_orbax():
        ocp.save(folder / WEIGHTS, _nested(parameters))


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax warns of the absence of packed files, which are not wanted."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_parameters(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read the parameters straight into the dtypes and shardings of `wanted`."""
    from orbax.checkpoint import v1 as ocp

    try:
        with _quiet_orbax():
            tree = ocp.load(folder / WEIGHTS, _nested(dict(wanted)))
    except (OSError, ValueError, KeyError) as error:
        raise UnreadableInput(
            f"{folder / WEIGHTS} can't be read ({str(error).splitlines()[0]}); convert the source again"
        ) from error
    return _flat(tree)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(flat):
        *stems, last = path.split(".")
        node = tree
        for stem in stems:
            node = node.setdefault(stem, {})
        node[last] = flat[path]
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
