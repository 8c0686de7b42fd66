"""An opened published folder: architecture, files and tensors, all checked before anything large is read.

`convert.emotion` and `convert.whisper` open the two kinds of checkpoints.
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
from .rules import FLOATS, Layout, Matching, TensorInfo, match, tensors_error
from .sources import TensorSource, read_json

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
    """A folder on disk and its name: the hub id and commit, or the path."""

    folder: Path
    id: str
    revision: str | None = None

    @classmethod
    def local(cls, folder: Path) -> Origin:
        """Return the origin of a local folder."""
        return cls(folder, str(folder))


@dataclass(frozen=True)
class PublishedPart:
    """The model or its frozen text encoder: its files, and which tensor fills which parameter.

    Attributes:
        origin: The folder.
        source: The weight files.
        matching: Assigns tensors to parameters.
        assets: Names of the configuration and tokenizer files that are copied with the weights.
    """

    origin: Origin
    source: TensorSource
    matching: Matching
    assets: tuple[str, ...]

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read (path, array) one parameter at a time, in the dtypes of the file.

        Args:
            advance: Called with the number of tensors that were read.

        Raises:
            InvalidInput: At the end, if a tensor has a value that is not finite. The message names all such tensors.
        """
        broken: list[str] = []
        for assignment in self.matching.assignments:
            parameter = np.empty(
                assignment.shape, common_dtype([self.source.tensors[name] for name in assignment.names])
            )
            items = parameter if assignment.stacked else parameter[None]
            for item, name, tensor in zip(items, assignment.names, self.source.read(assignment.names), strict=True):
                if not np.isfinite(tensor).all():
                    broken.append(name)
                item[...] = assignment.transform.forward(tensor)
            yield assignment.target, parameter
            advance(len(assignment.names))
        broken += [name for name, tensor in self.unused() if not np.isfinite(tensor).all()]
        if broken:
            raise tensors_error(self.origin.id, [f"{name} is not finite" for name in broken])

    def unused(self) -> Iterator[tuple[str, np.ndarray]]:
        """Read the tensors that take no part in the computation, in their own dtypes."""
        names = list(self.matching.unused)
        return zip(names, self.source.read(names), strict=True)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint that fits its architecture in every tensor. Whisper has no language."""

    language: str | None
    config: Architecture
    parts: Mapping[str, PublishedPart]

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read the (path, array) of all parts; see `PublishedPart.parameters`."""
        for part in self.parts.values():
            yield from part.parameters(advance)


@dataclass(frozen=True)
class Table:
    """The tensors of a part's file and the parameters that they fill.

    Attributes:
        layout: The rules from tensors to parameters.
        shapes: {path: shape} of the parameters.
    """

    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]


def tables_of(config: Architecture) -> dict[str, Table]:
    """Return the table of each part of an architecture: MODEL and, in the fusion modes, TEXT_ENCODER."""
    shapes = parameter_shapes(config)
    if isinstance(config, WhisperConfig):
        return {MODEL: Table(whisper.LAYOUT, shapes)}
    if config.mode not in FUSION_MODES:
        return {MODEL: Table(roberta.LAYOUT if config.mode == "text" else fusion.LAYOUT, shapes)}
    frozen = {path: shape for path, shape in shapes.items() if path.startswith("text_encoder.")}
    own = {path: shape for path, shape in shapes.items() if path not in frozen}
    return {MODEL: Table(fusion.LAYOUT, own), TEXT_ENCODER: Table(bert.LAYOUT, frozen)}


def open_part(origin: Origin, source: TensorSource, table: Table, assets: Sequence[str]) -> PublishedPart:
    """Match the tensors of a file with its table.

    Raises:
        InvalidInput: Tensors do not fit or are not finite. The message names all of them.
    """
    matching, problems = match(table.layout, source.tensors, table.shapes)
    problems += source.duplicates
    if problems:
        floats = [name for name, info in source.tensors.items() if info.dtype in FLOATS]
        problems += [
            f"{name} is not finite"
            for name, tensor in zip(floats, source.read(floats), strict=True)
            if not np.isfinite(tensor).all()
        ]
        raise tensors_error(origin.id, problems)
    return PublishedPart(origin, source, matching, tuple(assets))


def tokenizer_files(origin: Origin) -> list[str]:
    """Return the names of a folder's tokenizer files.

    Raises:
        UnreadableInput: The folder has no tokenizer.
    """
    names = [name for name in TOKENIZER_FILES if (origin.folder / name).is_file()]
    if not {"tokenizer.json", "vocab.txt", "vocab.json"} & set(names):
        raise UnreadableInput(f"{origin.id} has no tokenizer (tokenizer.json or vocab.txt); fetch the whole folder")
    return names


def check_preprocessor(folder: Path, expected: Mapping[str, int]) -> None:
    """Raise InvalidInput if preprocessor_config.json states other values than those expected."""
    settings = read_json(folder / PREPROCESSOR)
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise InvalidInput(
                f"{folder / PREPROCESSOR} has {key} {settings[key]!r} where {value!r} is needed, as in the published "
                "checkpoints; fetch it again"
            )


_NUMPY_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def common_dtype(infos: Sequence[TensorInfo]) -> np.dtype:
    """Return the common dtype of the tensors, or float32, which holds the values of all of them exactly."""
    dtypes = {_NUMPY_DTYPES[info.dtype] for info in infos}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
