"""A published folder, opened: architecture, files and tensors, all checked before anything large is read.

`convert.emotion` and `convert.whisper` open the two kinds there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from ..config import Architecture, WhisperConfig
from ..errors import InvalidInput, UnreadableInput
from ..models import parameter_shapes
from ..registry import FUSION_MODES
from .layouts import bert, fusion, roberta, whisper
from .record import MODEL, TEXT_ENCODER
from .rules import FLOATS, Layout, Matching, TensorInfo, complain, match
from .sources import TensorSource, read_json

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
)


@dataclass(frozen=True)
class Origin:
    """A folder on disk, and what it is called: its hub id and commit, or its path."""

    folder: Path
    id: str
    revision: str | None = None

    @classmethod
    def local(cls, folder: Path) -> Origin:
        return cls(folder, str(folder))


@dataclass(frozen=True)
class PublishedPart:
    """The model, or its frozen text encoder: files, and which tensor fills which parameter."""

    origin: Origin
    source: TensorSource
    matching: Matching
    assets: tuple[str, ...]  # names of the files that are carried along

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read (path, array) one parameter at a time, in the dtypes of the file.

        `advance` is told how many tensors were read. Raises InvalidInput, at the end, that names every tensor with a
        value that is not finite.
        """
        broken: list[str] = []
        for filled in self.matching.filled:
            parameter = np.empty(filled.shape, common_dtype([self.source.tensors[name] for name in filled.names]))
            items = parameter if filled.stacked else parameter[None]
            for item, name, tensor in zip(items, filled.names, self.source.read(filled.names), strict=True):
                if not np.isfinite(tensor).all():
                    broken.append(name)
                item[...] = filled.transform.forward(tensor)
            yield filled.target, parameter
            advance(len(filled.names))
        broken += [name for name, tensor in self.unused() if not np.isfinite(tensor).all()]
        if broken:
            raise complain(self.origin.id, [f"{name} is not finite" for name in broken])

    def unused(self) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors that are only carried along, in their own dtypes."""
        names = list(self.matching.unused)
        return zip(names, self.source.read(names), strict=True)


@dataclass(frozen=True)
class Published:
    """A published checkpoint that fits its architecture in every tensor."""

    language: str | None  # that of an emotion checkpoint
    config: Architecture
    parts: Mapping[str, PublishedPart]

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read the (path, array) of all parts, as `PublishedPart.parameters` does."""
        for part in self.parts.values():
            yield from part.parameters(advance)


@dataclass(frozen=True)
class Table:
    """Which tensors of a part's file fill which parameters: {path: shape}."""

    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]


def tables_of(config: Architecture) -> dict[str, Table]:
    """The parts of an architecture, MODEL and in the fusion modes TEXT_ENCODER, each with its table."""
    shapes = parameter_shapes(config)
    if isinstance(config, WhisperConfig):
        return {MODEL: Table(whisper.LAYOUT, shapes)}
    if config.mode not in FUSION_MODES:
        return {MODEL: Table(roberta.LAYOUT if config.mode == "text" else fusion.LAYOUT, shapes)}
    frozen = {path: shape for path, shape in shapes.items() if path.startswith("text_encoder.")}
    own = {path: shape for path, shape in shapes.items() if path not in frozen}
    return {MODEL: Table(fusion.LAYOUT, own), TEXT_ENCODER: Table(bert.LAYOUT, frozen)}


def open_part(origin: Origin, source: TensorSource, table: Table, assets: Sequence[str]) -> PublishedPart:
    """Hold a file against its table. Raises InvalidInput that names all tensors that don't fit or are not finite."""
    matching, problems = match(table.layout, source.tensors, table.shapes)
    problems += source.twice
    if problems:
        floats = [name for name, info in source.tensors.items() if info.dtype in FLOATS]
        problems += [
            f"{name} is not finite"
            for name, tensor in zip(floats, source.read(floats), strict=True)
            if not np.isfinite(tensor).all()
        ]
        raise complain(origin.id, problems)
    return PublishedPart(origin, source, matching, tuple(assets))


def tokenizer_files(origin: Origin) -> list[str]:
    """The names of a folder's tokenizer files. Raises UnreadableInput where it has no tokenizer."""
    names = [name for name in TOKENIZER_FILES if (origin.folder / name).is_file()]
    if not {"tokenizer.json", "vocab.txt", "vocab.json"} & set(names):
        raise UnreadableInput(f"{origin.id} has no tokenizer (tokenizer.json or vocab.txt); fetch the whole folder")
    return names


def check_preprocessor(folder: Path, expected: Mapping[str, int]) -> None:
    """Raises InvalidInput where preprocessor_config.json states other values than the features have."""
    settings = read_json(folder / PREPROCESSOR)
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise InvalidInput(
                f"{folder / PREPROCESSOR} has {key} {settings[key]!r} where {value!r} is needed, as in the published "
                "checkpoints; fetch it again"
            )


_NUMPY_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def common_dtype(infos: Sequence[TensorInfo]) -> np.dtype:
    """The dtype of all, or float32, which holds each of them exactly."""
    dtypes = {_NUMPY_DTYPES[info.dtype] for info in infos}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
