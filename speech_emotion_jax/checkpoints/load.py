"""Load a checkpoint onto devices, or outline it there without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding

from ..config import Architecture, EmotionConfig, WhisperConfig
from ..models import EmotionModel, Whisper, abstract_model, parameter_shapes, with_parameters
from ..runtime.orbax_arrays import load_parameters
from ..runtime.precision import check_precision, parameter_dtype
from ..runtime.progress import progress
from .request import Request
from .resolve import EmotionCheckpointInfo, ResolvedCheckpoint, resolve_emotion, resolve_whisper


@dataclass(frozen=True)
class Checkpoint:
    """An emotion model in memory, and where its preprocessor (`folder`) and tokenizer (`text_folder`) are."""

    model: EmotionModel
    config: EmotionConfig
    language: str
    folder: Path
    text_folder: Path


@dataclass(frozen=True)
class WhisperCheckpoint:
    """Whisper in memory, the name the user gave, and the folder of its tokenizer and generation_config.json."""

    model: Whisper
    config: WhisperConfig
    folder: Path
    name: str


def load_checkpoint(request: Request, placement: jax.Device | Sharding, precision: str) -> Checkpoint:
    """Resolve a request for an emotion checkpoint and load it.

    Args:
        request: What to load.
        placement: The device that holds the parameters, or a sharding of them over several devices.
        precision: The dtype of the encoders' matrices, "float32" or "bfloat16".

    Raises:
        InvalidInput: The checkpoint does not fit the request.
        UnreadableInput: A file or download is missing or broken.
    """
    return load_resolved(resolve_emotion(request), placement, precision)


def load_resolved(info: EmotionCheckpointInfo, placement: jax.Device | Sharding, precision: str) -> Checkpoint:
    """Load a resolved emotion checkpoint. For the arguments see `load_checkpoint`.

    Raises:
        InvalidInput: A tensor has a value that is not finite, or the precision is unknown.
        UnreadableInput: A file is missing or broken.
    """
    check_precision(precision)
    sharding = SingleDeviceSharding(placement) if isinstance(placement, jax.Device) else placement
    arrays = _load_arrays(info, info.config, sharding, precision)
    return _checkpoint(info, with_parameters(info.config, arrays))


def abstract_checkpoint(info: EmotionCheckpointInfo, sharding: Sharding, precision: str) -> Checkpoint:
    """Return the checkpoint with a `jax.ShapeDtypeStruct` for each parameter; programs can be compiled from it.

    Raises:
        InvalidInput: The precision is unknown.
    """
    check_precision(precision)
    structs = _parameter_structs(info.config, sharding, precision)
    graph, state = nnx.split(abstract_model(info.config))
    leaves = {path: leaf.replace(structs[".".join(map(str, path))]) for path, leaf in nnx.to_flat_state(state)}
    return _checkpoint(info, nnx.merge(graph, nnx.from_flat_state(leaves)))


def load_whisper(
    model_id: str, sharding: Sharding, precision: str, *, revision: str | None = None
) -> WhisperCheckpoint:
    """Load a Whisper checkpoint.

    Args:
        model_id: A hub id, a published folder or a converted folder.
        sharding: Where every parameter is placed.
        precision: The dtype of the matrices, "float32" or "bfloat16".
        revision: A branch, tag or commit on the hub. None selects the main branch.

    Raises:
        InvalidInput: It is not a Whisper checkpoint, or the precision is unknown.
        UnreadableInput: A file or download is missing or broken.
    """
    check_precision(precision)
    info = resolve_whisper(Request(model_id, revision=revision))
    model = with_parameters(info.config, _load_arrays(info, info.config, sharding, precision))
    return WhisperCheckpoint(model, info.config, info.folder, model_id)


def _checkpoint(info: EmotionCheckpointInfo, model: EmotionModel) -> Checkpoint:
    return Checkpoint(model, info.config, info.language, info.folder, info.text_folder)


def _load_arrays(
    checkpoint: ResolvedCheckpoint, config: Architecture, sharding: Sharding, precision: str
) -> dict[str, jax.Array]:
    """Read {path: parameter} straight onto the devices of the sharding."""
    source = checkpoint.source
    if isinstance(source, Path):
        with progress(f"Loading {source.name} in {precision}"):
            return load_parameters(source, _parameter_structs(config, sharding, precision))
    total = sum(len(part.source.tensors) for part in source.parts.values())
    with progress("Reading tensors", total) as advance:
        return {
            path: jax.device_put(np.asarray(array, parameter_dtype(path, precision)), sharding)
            for path, array in source.parameters(advance)
        }


def _parameter_structs(config: Architecture, sharding: Sharding, precision: str) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        path: jax.ShapeDtypeStruct(shape, parameter_dtype(path, precision), sharding=sharding)
        for path, shape in parameter_shapes(config).items()
    }
