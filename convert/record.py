"""The converted checkpoint: one self-contained folder with all that a prediction needs.

    record.json            schema version, kind, language, architecture, labels, origin, every source tensor
    config.json, preprocessor_config.json, tokenizer files, ...    the source's own files, unchanged
    text_encoder/          the same files of the frozen text encoder (fusion modes)
    weights/               the parameters, an Orbax checkpoint, in the dtypes of the source
    unused.safetensors     tensors of the source that take no part in the computation; also in text_encoder/

The folder is written under another name and renamed when it is complete, so a partial folder never loads. It is never
modified afterwards, because other processes may have its weights mapped into their memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Architecture, EmotionConfig, WhisperConfig
from ..errors import InvalidInput, UnreadableInput

SCHEMA = 2  # Version 2 made SpecAugment's vector a parameter.
RECORD = "record.json"
MODEL, TEXT_ENCODER = "model", "text_encoder"
UNUSED = "unused.safetensors"
ARCHITECTURES = {config.kind: config for config in (EmotionConfig, WhisperConfig)}


@dataclass(frozen=True)
class RecordPart:
    """One source folder: that of the model or of its frozen text encoder.

    Attributes:
        id: The hub id, or the path it was read from.
        revision: The commit on the hub; None for a local folder.
        sha256: {weight file: SHA-256}.
        tensors: {name: (dtype, shape)} of all tensors.
    """

    id: str
    revision: str | None
    sha256: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Record:
    """The content of record.json.

    Attributes:
        language: "es" or "en"; None for Whisper.
        config: The architecture.
        parts: The source folders, "model" and, in the fusion modes, "text_encoder".
        files: {path in the folder: size in bytes} of all files but the record.
        schema: Version of the layout of a converted folder.
    """

    language: str | None
    config: Architecture
    parts: Mapping[str, RecordPart]
    files: Mapping[str, int]
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Serialize the record."""
        return json.dumps({"kind": self.config.kind, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse a record.

        Raises:
            ValueError: It is of another schema, or is not JSON.
            KeyError: A field is missing.
            TypeError: A field has a wrong type.
        """
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']}")
        # The first records name no kind, because emotion checkpoints were the only one.
        config = ARCHITECTURES[value.get("kind", EmotionConfig.kind)].from_record(value["config"])
        parts = {}
        for name, part in value["parts"].items():
            tensors = {key: (dtype, tuple(shape)) for key, (dtype, shape) in part["tensors"].items()}
            parts[name] = RecordPart(part["id"], part["revision"], part["sha256"], tensors)
        return cls(value["language"], config, parts, value["files"])


def is_converted(folder: Path) -> bool:
    """Return whether a folder is a converted checkpoint rather than a published one."""
    return (folder / RECORD).is_file()


def file_sizes(folder: Path) -> dict[str, int]:
    """Return {path in the folder: size in bytes} of all files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def read_record(folder: Path) -> Record:
    """Read the record of a converted folder and check that the folder is complete.

    Raises:
        UnreadableInput: The folder has no record, or a file is missing or truncated, as after an interrupted copy.
        InvalidInput: The record is broken or of another version.
    """
    try:
        data = (folder / RECORD).read_bytes()
    except OSError as error:
        raise UnreadableInput(
            f"{folder} is not a converted checkpoint: it has no {RECORD}; convert it first"
        ) from error
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
