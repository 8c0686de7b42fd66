"""Pretrained encoders for training to start from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..convert import (
    CONFIG,
    MODEL,
    TEXT_ENCODER,
    Encoder,
    Origin,
    check_encoder,
    is_converted,
    open_encoder,
    read_record,
)
from ..errors import InvalidInput
from ..models import parameter_shapes
from ..runtime.orbax_arrays import load_parameters
from ..runtime.progress import progress
from .request import Request, local_folder, locate, read_settings


class PretrainedEncoder(NamedTuple):
    """An encoder in the memory of this host.

    Attributes:
        config: Its architecture.
        parameters: {path: float32 array}, with the paths they have in an emotion model.
        folder: The folder of its tokenizer or preprocessor.
    """

    config: Wav2Vec2BertConfig | BertConfig
    parameters: dict[str, np.ndarray]
    folder: Path


def load_encoder(name: str, kind: str) -> PretrainedEncoder:
    """Load the encoder that a checkpoint is, or the one inside an emotion checkpoint.

    The audio encoder of an emotion checkpoint comes with the projector and, where there are some, `layer_weights`.

    Args:
        name: A hub id, a published folder or a converted folder.
        kind: "audio" or "text".

    Raises:
        InvalidInput: The checkpoint holds no encoder of that kind.
        UnreadableInput: A file or download is missing or broken.
    """
    request = Request(name)
    folder = local_folder(request)
    if folder is not None and is_converted(folder):
        return _load_converted(folder, kind)
    encoder = _open_published(request, kind)
    with progress(f"Reading the encoder of {kind}", len(encoder.part.source.tensors)) as advance:
        parameters = {path: np.asarray(array, np.float32) for path, array in encoder.parameters(advance)}
    return PretrainedEncoder(encoder.config, parameters, encoder.folder)


def encoder_digests(name: str, kind: str) -> dict[str, str]:
    """Return {weight file: SHA-256} of the published weights that `load_encoder` reads.

    Raises:
        InvalidInput: The checkpoint holds no encoder of that kind.
        UnreadableInput: A file or download is missing or broken.
    """
    request = Request(name)
    folder = local_folder(request)
    if folder is not None and is_converted(folder):
        parts = read_record(folder).parts
        return dict(parts[TEXT_ENCODER if kind == "text" and TEXT_ENCODER in parts else MODEL].sha256)
    return _open_published(request, kind).sha256()


def _open_published(request: Request, kind: str) -> Encoder:
    """Open an encoder in place. An emotion checkpoint has its frozen text encoder, if any, in a folder of its own."""
    name, settings = request.model_id, read_settings(request)
    inside = kind == "text" and settings.get("model_type") == "wav2vec2-bert"
    if not inside:
        check_encoder(name, kind, settings)  # Checked here, before gigabytes are downloaded.
    origin = locate(name)
    if not inside:
        return open_encoder(origin, kind)
    if not (origin.folder / TEXT_ENCODER / CONFIG).is_file():
        raise InvalidInput(f"{name} holds no text encoder; name the one it was trained with")
    return open_encoder(Origin(origin.folder / TEXT_ENCODER, f"{name}/{TEXT_ENCODER}", origin.revision), kind)


def _load_converted(folder: Path, kind: str) -> PretrainedEncoder:
    record = read_record(folder)
    config = record.config
    if not isinstance(config, EmotionConfig):
        raise InvalidInput(f"{folder} is a Whisper checkpoint, whose encoder has another task; name another checkpoint")
    encoder = config.audio if kind == "audio" else config.text
    if encoder is None:
        raise InvalidInput(f"{folder} is of mode {config.mode!r} and has no encoder of {kind}; name another checkpoint")
    prefixes = ("audio_encoder.", "projector.", "layer_weights") if kind == "audio" else ("text_encoder.",)
    on_host = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    structs = {
        path: jax.ShapeDtypeStruct(shape, np.float32, sharding=on_host)
        for path, shape in parameter_shapes(config).items()
        if path.startswith(prefixes)
    }
    with progress(f"Loading the encoder of {kind} from {folder.name}"):
        arrays = load_parameters(folder, structs)
    inside = kind == "text" and TEXT_ENCODER in record.parts
    parameters = {path: np.asarray(array) for path, array in arrays.items()}
    return PretrainedEncoder(encoder, parameters, folder / TEXT_ENCODER if inside else folder)
