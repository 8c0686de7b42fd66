"""Load the two sides of a parity check: the original in PyTorch and the checkpoint in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ..audio import AudioSource
from ..checkpoints import (
    EmotionCheckpointInfo,
    Request,
    WhisperCheckpointInfo,
    load_resolved,
    load_whisper,
    open_published,
)
from ..config import Architecture, EmotionConfig, WhisperConfig
from ..convert import MODEL, TEXT_ENCODER, PublishedCheckpoint, read_record
from ..errors import InvalidInput, UnreadableInput
from ..models import parameters_of
from ..registry import FUSION_MODES
from ..runtime.devices import select_device, select_mesh
from ..whisper import WhisperPipeline
from . import tensors
from .jax_emotion import JaxEmotion
from .jax_whisper import JaxWhisper
from .stages import Stages


@runtime_checkable
class JaxSide(Protocol):
    """Our side: `JaxEmotion` or `JaxWhisper`."""

    def compute_stages(self, theirs: Stages, audio: AudioSource | None, text: str | None) -> Stages:
        """Compute all stages, each network from the original's input."""
        ...

    def compute_stages_alone(self, theirs: Stages) -> Stages:
        """Compute each stage of the networks from the original's previous stage."""
        ...


@runtime_checkable
class TorchSide(Protocol):
    """The original's side: `TorchOriginal` or `WhisperOriginal`."""

    def compute_stages(self, recording: str | None, text: str | None) -> Stages:
        """Compute every stage from a file and its text."""
        ...

    def constants(self) -> tensors.Constants:
        """Return the constants of the modules."""
        ...


def open_reference(request: Request, source: Path | PublishedCheckpoint, reference: str | None) -> PublishedCheckpoint:
    """Open the published checkpoint that PyTorch runs.

    Args:
        request: the checkpoint that is checked.
        source: what the request resolved to: a converted folder or a published checkpoint.
        reference: the published folder that the user named, or None for the source of the checkpoint.

    Raises:
        UnreadableInput: if the published checkpoint cannot be read.
    """
    if isinstance(source, PublishedCheckpoint) and reference is None:
        return source
    mode, language, text_encoder = request.mode, request.language, request.text_encoder
    revision, model_id = request.revision, reference or request.model_id
    if isinstance(source, Path):
        record = read_record(source)
        model_id = reference or record.parts[MODEL].id
        revision = None if reference else record.parts[MODEL].revision
        if isinstance(record.config, EmotionConfig):
            mode, language = record.config.mode, record.language
            if mode in FUSION_MODES and text_encoder is None and not (Path(model_id) / TEXT_ENCODER).is_dir():
                text_encoder = record.parts[TEXT_ENCODER].id
    try:
        return open_published(
            Request(model_id, mode, language, text_encoder, revision, request.weights, request.labels, request.registry)
        )
    except UnreadableInput as error:
        raise UnreadableInput(
            f"PyTorch's side can't be read: {error}; name the published folder with --reference"
        ) from error


def load_torch_side(architecture: Architecture, reference: PublishedCheckpoint, language: str) -> TorchSide:
    """Load the original in PyTorch.

    Args:
        architecture: the architecture of the checkpoint.
        reference: the published checkpoint.
        language: the language of the recordings, for Whisper.

    Raises:
        InvalidInput: if PyTorch is not installed.
    """
    folders = {name: part.origin.folder for name, part in reference.parts.items()}
    try:
        from transformers import logging

        from .original import TorchOriginal
        from .original_whisper import WhisperOriginal
    except ImportError as error:
        raise InvalidInput(
            f"the original can't be run without PyTorch ({error}): pip install -e '.[torch]', or compare with a golden "
            "by --against FILE"
        ) from error
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # transformers warns about defaults that the user did not choose
    if isinstance(architecture, WhisperConfig):
        return WhisperOriginal(folders[MODEL], language)
    return TorchOriginal(folders[MODEL], architecture.mode, folders.get(TEXT_ENCODER))


def load_jax_side(
    request: Request,
    checkpoint: EmotionCheckpointInfo | WhisperCheckpointInfo,
    precision: str,
    device: object,
    language: str,
) -> tuple[JaxSide, dict[str, str | float]]:
    """Load our side on one device.

    Args:
        request: the checkpoint that is checked.
        checkpoint: what the request resolved to.
        precision: "float32" or "bfloat16".
        device: as in `select_device`.
        language: the language of the recordings, for Whisper.

    Returns:
        Our side, and the digests of its tensors with the constants of its modules.
    """
    mesh = select_mesh(select_device(device))
    place = NamedSharding(mesh, PartitionSpec())
    if isinstance(checkpoint, WhisperCheckpointInfo):
        whisper = load_whisper(request.model_id, place, precision, revision=request.revision)
        digests = _digest_model(checkpoint.config, whisper.model, precision)
        return JaxWhisper(WhisperPipeline(whisper, mesh), language), digests
    loaded = load_resolved(checkpoint, place, precision)
    return JaxEmotion(loaded), _digest_model(checkpoint.config, loaded.model, precision)


def _digest_model(config: Architecture, model: nnx.Module, precision: str) -> dict[str, str | float]:
    digests = tensors.digest_parameters(config, parameters_of(model), precision)
    return {**digests, **tensors.module_constants(config, model)}
