"""Create the model of a training run from checkpoints, with fresh parameters where there are none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from ..checkpoints import (
    PretrainedEncoder,
    Request,
    encoder_digests,
    load_encoder,
    load_resolved,
    resolve_emotion,
)
from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..convert import check_text_encoder
from ..errors import InvalidInput
from ..models import EmotionModel, parameter_shapes, parameters_of
from ..registry import FUSION_MODES, PUBLISHED
from ..text import write_word_tokenizer
from .recipe import Recipe

logger = logging.getLogger("speech_emotion_jax")

HEAD = ("projector.", "layer_weights", "fusion.", "classifier.")  # all that is no encoder

EncoderConfig = TypeVar("EncoderConfig", Wav2Vec2BertConfig, BertConfig)


@dataclass(frozen=True)
class InitialModel:
    """A model before the first step.

    Attributes:
        config: The model's configuration.
        parameters: {path: array}, float32, in the memory of this host.
        text_folder: The folder with the tokenizer; None if there is none.
        audio_folder: The folder with the preprocessor's settings; None if there is none.
        padding_value: The value that features are padded with.
    """

    config: EmotionConfig
    parameters: Mapping[str, np.ndarray]
    text_folder: Path | None
    audio_folder: Path | None


def checkpoint_labels(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the labels of the emotion checkpoint that a recipe starts from; None if there is none."""
    if recipe.start.checkpoint is None:
        return None
    return resolve_emotion(_request(recipe)).config.labels


def source_digests(recipe: Recipe) -> dict[str, Any]:
    """Return the digests of the checkpoints that a recipe starts from."""
    if recipe.start.checkpoint is not None:
        return dict(resolve_emotion(_request(recipe)).weight_digests())
    return {kind: encoder_digests(name, kind) for kind, name in _encoders(recipe).items()}


def make_initial_model(
    recipe: Recipe, labels: tuple[str, ...], texts: Callable[[], Sequence[str]], folder: Path
) -> InitialModel:
    """Create the model of a recipe.

    Args:
        recipe: The recipe.
        labels: The labels of the outputs.
        texts: Returns the training texts, for the tokenizer of a text model from scratch.
        folder: The folder to write that tokenizer to.

    Raises:
        InvalidInput: The recipe asks for other sizes than its checkpoints have.
        UnreadableInput: A checkpoint is missing.
    """
    if recipe.start.init == "scratch":
        found = _from_scratch(recipe, labels, texts, folder)
    elif recipe.start.checkpoint is not None:
        found = _from_checkpoint(recipe, labels)
    else:
        found = _from_encoders(recipe, labels)
    check_text_encoder(found.config)
    return _completed(found, recipe.training.seed)


def _request(recipe: Recipe) -> Request:
    start, model = recipe.start, recipe.model
    assert start.checkpoint is not None
    return Request(start.checkpoint, model.mode, model.language, start.text)


def _from_scratch(
    recipe: Recipe, labels: tuple[str, ...], texts: Callable[[], Sequence[str]], folder: Path
) -> InitialModel:
    mode = recipe.model.mode
    audio = text = None
    if mode != "text":
        audio = _overridden(Wav2Vec2BertConfig(), recipe, "audio")
        audio = replace(audio, output_hidden_size=audio.hidden_size)
    if mode != "audio":
        words = write_word_tokenizer(texts(), folder)
        # The published layout has RoBERTa where text stands alone, and BERT beside sound.
        kind = {"model_type": "roberta", "max_position_embeddings": 513} if mode == "text" else {}
        text = _overridden(replace(BertConfig(), vocab_size=words, **kind), recipe, "text")
    width = recipe.model.projection_width or (
        None if text is not None or audio is None else min(768, audio.hidden_size)
    )
    config = EmotionConfig.of(mode, labels, audio, text, width)
    return InitialModel(config, {}, None if text is None else folder, None)


def _from_checkpoint(recipe: Recipe, labels: tuple[str, ...]) -> InitialModel:
    checkpoint = load_resolved(resolve_emotion(_request(recipe)), jax.devices("cpu")[0], "float32")
    parameters = {path: np.asarray(array) for path, array in parameters_of(checkpoint.model).items()}
    if recipe.start.head == "fresh":
        parameters = {path: array for path, array in parameters.items() if not path.startswith(HEAD)}
    config = checkpoint.config
    changed = replace(
        config,
        labels=labels,
        audio=config.audio and _overridden(config.audio, recipe, "audio"),
        text=config.text and _overridden(config.text, recipe, "text"),
    )
    _check_sizes(config, changed)
    return InitialModel(
        changed,
        parameters,
        None if config.text is None else checkpoint.text_folder,
        None if config.audio is None else checkpoint.folder,
    )


def _encoders(recipe: Recipe) -> dict[str, str]:
    """Return {kind: name} of the pretrained encoders that the recipe's mode needs."""
    start, mode = recipe.start, recipe.model.mode
    if start.init == "scratch":
        return {}
    names = {
        "audio": start.audio,
        "text": start.text or (PUBLISHED.text_encoder_id(recipe.model.language) if mode in FUSION_MODES else None),
    }
    found = {}
    for kind in ("audio", "text"):
        if mode in ("audio", "text") and mode != kind:
            continue
        if (name := names[kind]) is None:
            raise InvalidInput(f"the recipe names no start.{kind}, and mode {mode} needs one; name an encoder")
        found[kind] = name
    return found


def _from_encoders(recipe: Recipe, labels: tuple[str, ...]) -> InitialModel:
    mode = recipe.model.mode
    found = {kind: load_encoder(name, kind) for kind, name in _encoders(recipe).items()}
    audio, text = found.get("audio"), found.get("text")
    heard, read = audio and audio.config, text and text.config
    assert not isinstance(heard, BertConfig)
    assert not isinstance(read, Wav2Vec2BertConfig)
    own = EmotionConfig.of(mode, labels, heard, read, _projection(recipe, audio))
    config = replace(
        own,
        audio=own.audio and _overridden(own.audio, recipe, "audio"),
        text=own.text and _overridden(own.text, recipe, "text"),
    )
    _check_sizes(own, config)
    return InitialModel(
        config,
        {path: array for each in found.values() for path, array in each.parameters.items()},
        None if text is None else text.folder,
        None if audio is None else audio.folder,
    )


def _projection(recipe: Recipe, audio: PretrainedEncoder | None) -> int | None:
    """Return the recipe's projection width, else that of a projector that came with the encoder."""
    if recipe.model.projection_width is not None or audio is None or "projector.kernel" not in audio.parameters:
        return recipe.model.projection_width
    return audio.parameters["projector.kernel"].shape[1]


def _overridden(config: EncoderConfig, recipe: Recipe, kind: str) -> EncoderConfig:
    """Return an encoder's configuration with the recipe's fields applied."""
    model = recipe.model
    own = model.audio if kind == "audio" else model.text
    shared = {name: value for name, value in model.encoders.items() if hasattr(config, name)}
    return replace(config, **{**shared, **own})


def _check_sizes(given: EmotionConfig, asked: EmotionConfig) -> None:
    """Raise InvalidInput if the recipe's fields change the sizes of the checkpoint."""
    labels = ("any",)  # those are the recipe's to choose
    shapes = [parameter_shapes(replace(each, labels=labels)) for each in (given, asked)]
    if shapes[0] == shapes[1]:
        return
    odd = [path for path in sorted(shapes[0].keys() | shapes[1].keys()) if shapes[0].get(path) != shapes[1].get(path)]
    raise InvalidInput(
        f"[model] of the recipe asks for other sizes than the checkpoint has ({odd[0]} would be "
        f"{shapes[1].get(odd[0])} and is {shapes[0].get(odd[0])}); leave sizes out, or set start.init = 'scratch'"
    )


def _completed(beginning: InitialModel, seed: int) -> InitialModel:
    """Add fresh parameters for everything that no checkpoint has, including the mask vector of SpecAugment."""
    config = beginning.config
    if config.audio is not None and not config.audio.mask_embedding:
        config = replace(config, audio=replace(config.audio, mask_embedding=True))
    given = beginning.parameters
    missing = parameter_shapes(config).keys() - given.keys()

    def fresh() -> dict[str, jax.Array]:
        parameters = parameters_of(EmotionModel(config, rngs=nnx.Rngs(seed)))
        return {path: parameters[path] for path in sorted(missing)}

    made = jax.jit(fresh)()  # compiled, so that nothing else is drawn
    if given and (names := sorted({path.split(".")[0] for path in missing})):
        logger.info("fresh: %s", ", ".join(names))
    parameters = {**given, **{path: np.asarray(array) for path, array in made.items()}}
    for path, shape in parameter_shapes(config).items():
        if parameters[path].shape != shape:
            raise InvalidInput(
                f"{path} has the shape {parameters[path].shape} in the checkpoint and {shape} in the model; take a "
                'fresh head (start.head = "fresh")'
            )
    return replace(beginning, config=config, parameters=parameters)
