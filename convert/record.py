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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Architecture, EmotionConfig, WhisperConfig
from ..errors import InvalidInput, UnreadableInput

SCHEMA = 2  # since which SpecAugment's vector is a parameter
RECORD = "record.json"
MODEL, TEXT_ENCODER = "model", "text_encoder"
UNUSED = "unused.safetensors"
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
