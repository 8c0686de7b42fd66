"""Open published emotion checkpoints: mode, architecture and labels from config.json and the tensors."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput
from ..registry import FUSION_MODES, LABELS, check_language, check_mode
from .published import (
    PREPROCESSOR,
    Origin,
    PublishedCheckpoint,
    check_preprocessor,
    open_part,
    tables_of,
    tokenizer_files,
)
from .record import MODEL, TEXT_ENCODER
from .rules import TensorInfo, unwrapped
from .sources import CONFIG, open_as_transformers, open_source, read_json


def open_emotion(
    model: Origin,
    mode: str,
    language: str,
    *,
    text_encoder: Origin | None = None,
    weights: str | None = None,
    labels: Sequence[str] | None = None,
) -> PublishedCheckpoint:
    """Open a published emotion checkpoint for a mode and language.

    Args:
        model: The folder of the model.
        mode: "text", "audio", "concat", "mean" or "multihead".
        language: "es" or "en".
        text_encoder: The folder of the frozen text encoder. The fusion modes need it.
        weights: "safetensors" or "bin" where the folder holds both.
        labels: Names of the outputs, in order, in place of those in config.json.

    Raises:
        UnreadableInput: A file is missing or broken.
        InvalidInput: Something does not fit. The message names all tensors that are missing, unknown, duplicated or of
            a wrong shape.
    """
    mode, language = check_mode(mode), check_language(language)
    source = open_source(model.folder, weights)
    _check_mode_fits(model.id, source.tensors, mode)
    settings = read_json(model.folder / CONFIG)
    text_source = text_settings = None
    if mode in FUSION_MODES:
        if text_encoder is None:
            raise InvalidInput(f"mode {mode!r} needs its frozen text encoder; name one with --text-encoder")
        text_settings = read_json(text_encoder.folder / CONFIG)
        text_source = open_as_transformers(text_encoder.folder)
    tensors = unwrapped(source.tensors)
    config = _architecture(model.id, mode, settings, text_settings, tensors)
    config = replace(config, labels=_labels(model.id, settings, language, tensors, labels))

    tables = tables_of(config)
    parts = {MODEL: open_part(model, source, tables[MODEL], _assets(model, mode))}
    if text_encoder is not None and text_source is not None:
        assets = [CONFIG, *tokenizer_files(text_encoder)]
        parts[TEXT_ENCODER] = open_part(text_encoder, text_source, tables[TEXT_ENCODER], assets)
    return PublishedCheckpoint(language, config, parts)


def _assets(model: Origin, mode: str) -> list[str]:
    if mode == "text":
        return [CONFIG, *tokenizer_files(model)]
    check_audio_preprocessor(model.folder)
    return [CONFIG, PREPROCESSOR]


def check_audio_preprocessor(folder: Path) -> None:
    """Raise InvalidInput if preprocessor_config.json asks for other features than `audio.fbank` computes."""
    check_preprocessor(folder, {"feature_size": 80, "num_mel_bins": 80, "stride": 2, "sampling_rate": 16_000})
    padding = read_json(folder / PREPROCESSOR).get("padding_value", 0.0)
    if not isinstance(padding, int | float):
        raise InvalidInput(
            f"{folder / PREPROCESSOR} has padding_value {padding!r}, which is not a number; fetch it again"
        )


def compatible_modes(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Return the modes that these tensors can be weights of. Audio and mean checkpoints have the same tensors."""
    tensors = unwrapped(tensors)
    if any(name.startswith("roberta.") for name in tensors):
        return ("text",)
    projections, heads = stated_sizes(tensors, PROJECTION), stated_sizes(tensors, HEAD)
    if not projections or not heads:
        return ()
    if any(name.startswith("mult_attn_model.") for name in tensors):
        return ("multihead",)
    # If the tensors contradict each other, several modes are returned. The check of the shapes reports the fault.
    equal = ("audio", "mean") if set(projections) & set(heads) else ()
    return (*equal, "concat") if max(heads) > min(projections) else equal


def _check_mode_fits(where: str, tensors: Mapping[str, TensorInfo], mode: str) -> None:
    fitting = compatible_modes(tensors)
    if not fitting:
        raise InvalidInput(
            f"{where} is not an emotion checkpoint: it has neither roberta.* nor projector and classifier.dense "
            "tensors; name one of the published checkpoints, or a folder laid out like them"
        )
    if mode not in fitting:
        raise InvalidInput(f"{where} holds weights of mode {' or '.join(fitting)}, not {mode}; use --mode {fitting[0]}")


# Tensors and axes that state a width. If one tensor is broken, the others still agree.
PROJECTION = (("projector.weight", 0), ("projector.bias", 0))
HEAD = (
    ("classifier.dense.weight", 0),
    ("classifier.dense.weight", 1),
    ("classifier.dense.bias", 0),
    ("classifier.out_proj.weight", 1),
)
OUTPUTS = (("classifier.out_proj.weight", 0), ("classifier.out_proj.bias", 0))


def stated_sizes(tensors: Mapping[str, TensorInfo], axes: Sequence[tuple[str, int]]) -> list[int]:
    """Return the sizes of these (tensor, axis) pairs, leaving out those that are not there."""
    return [tensors[name].shape[axis] for name, axis in axes if name in tensors and axis < len(tensors[name].shape)]


def most_common(sizes: Sequence[int]) -> int:
    """Return the most common size, or the first of several equally common ones.

    A tensor of another size is then reported as broken, in place of all the others.
    """
    return Counter(sizes).most_common(1)[0][0]


def _architecture(
    where: str,
    mode: str,
    settings: Mapping[str, Any],
    text_settings: Mapping[str, Any] | None,
    tensors: Mapping[str, TensorInfo],
) -> EmotionConfig:
    """Read the architecture from config.json, and from the tensors the widths that config.json does not state.

    The labels are left empty.
    """
    if mode == "text":
        text = _bert_config(where, settings, "roberta")
        multi_label = settings.get("problem_type") == "multi_label_classification"
        return EmotionConfig(mode, (), None, text, None, head_width=text.hidden_size, multi_label=multi_label)
    text = None if text_settings is None else _bert_config(f"the text encoder of {where}", text_settings, "bert")
    projections, heads = stated_sizes(tensors, PROJECTION), stated_sizes(tensors, HEAD)
    if mode == "concat" and text is not None:
        head_width = most_common(heads)
        projection_width = most_common([*projections, head_width - text.hidden_size])
    else:
        head_width = projection_width = most_common(projections + heads)
    if text is not None:
        needed = head_width - projection_width if mode == "concat" else projection_width
        if text.hidden_size != needed:
            raise InvalidInput(
                f"{where} was trained with text vectors {needed} wide, and the text encoder gives {text.hidden_size}; "
                "name the one it was trained with by --text-encoder"
            )
    fusion_heads = {name.split(".")[2] for name in tensors if name.startswith("mult_attn_model.heads.")}
    return EmotionConfig(
        mode,
        (),
        audio=audio_config(settings, "wav2vec2_bert.masked_spec_embed" in tensors),
        text=text,
        projection_width=projection_width,
        head_width=head_width,
        fusion_heads=max(len(fusion_heads), 1) if mode == "multihead" else None,
    )


def audio_config(settings: Mapping[str, Any], mask_embedding: bool) -> Wav2Vec2BertConfig:
    """Read the architecture of an audio encoder from config.json.

    Args:
        settings: The content of config.json.
        mask_embedding: Whether the file holds SpecAugment's vector, which config.json does not tell.

    Raises:
        InvalidInput: A setting can't be used.
    """
    return replace(Wav2Vec2BertConfig.from_json(settings), mask_embedding=mask_embedding)


def _bert_config(where: str, settings: Mapping[str, Any], model_type: str) -> BertConfig:
    config = BertConfig.from_json(settings)
    if config.model_type != model_type:
        raise InvalidInput(f"{where} is of model_type {config.model_type!r} where {model_type!r} is needed")
    return config


def _labels(
    where: str,
    settings: Mapping[str, Any],
    language: str,
    tensors: Mapping[str, TensorInfo],
    given: Sequence[str] | None,
) -> tuple[str, ...]:
    """Return the names of the outputs in order: those given, else config.json's, which must be the language's."""
    published = LABELS[language]
    table = settings.get("id2label") or {}
    try:
        names = tuple(str(table[str(index)]) for index in range(len(table)))
    except (TypeError, KeyError) as error:
        raise InvalidInput(
            f"{where} has an id2label in config.json that does not number labels from 0; name the outputs with --labels"
        ) from error
    outputs = most_common([*stated_sizes(tensors, OUTPUTS), len(given or names or published)])
    if given is not None:
        if len(set(given)) != len(given) or len(given) != outputs or not all(given):
            raise InvalidInput(
                f"{where} has {outputs} outputs; --labels must name each once, and names {', '.join(given)}"
            )
        return tuple(given)
    if all(re.fullmatch(r"LABEL_\d+", label) for label in names):
        if outputs != len(published):
            raise InvalidInput(
                f"{where} has {outputs} outputs and no label names, and {language!r} has the {len(published)} labels "
                f"{', '.join(published)}; choose the right --language or name the outputs with --labels"
            )
        warnings.warn(
            f"{where} does not name its labels; they are taken to be in the published order: {', '.join(published)}",
            stacklevel=2,
        )
        return published
    if len(names) != outputs or sorted(names) != sorted(published):
        raise InvalidInput(
            f"{where} has {outputs} outputs with the labels {', '.join(names)}, and {language!r} has "
            f"{', '.join(published)}; choose the right --language, or name the outputs with --labels"
        )
    return names
