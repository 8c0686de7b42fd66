"""Write a trained model in the published layout, which the PyTorch toolkit's classes and transformers load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput
from ..models import parameter_shapes
from ..registry import FUSION_MODES
from ..runtime.atomic import atomic_folder, check_disk_space
from .emotion import open_emotion
from .engine import convert, save_tensors
from .published import PREPROCESSOR, Origin, tables_of, tokenizer_files
from .record import MODEL, TEXT_ENCODER
from .sources import CONFIG, SINGLE

ARCHITECTURES = {  # Classes of the toolkit.
    "text": "RobertaForSequenceClassification",
    "audio": "CustomAudioClassification",
    "concat": "CustomAudioClassificationConcat",
    "mean": "CustomAudioClassificationMean",
    "multihead": "CustomAudioClassificationAttn",
}
PREPROCESSING = {  # Defaults of transformers.
    "feature_extractor_type": "SeamlessM4TFeatureExtractor",
    "feature_size": 80,
    "num_mel_bins": 80,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16_000,
    "stride": 2,
}

Parameters = Mapping[str, Shaped[np.ndarray, "..."]]


def publish(
    config: EmotionConfig,
    parameters: Parameters,
    destination: Path,
    *,
    text_assets: Path | None = None,
    audio_assets: Path | None = None,
    notice: str | None = None,
    dtype: Any = np.float32,
) -> None:
    """Write a model as a published folder. Nothing is left behind if it fails.

    In the fusion modes the text encoder goes to text_encoder/. Tensors that PyTorch's classes hold without using them
    are written too: `classifier.layernorm` as the identity, and the text encoder's pooler as zeros.

    Args:
        config: The architecture.
        parameters: {path: array} of the whole model, as `models.parameters_of` returns them.
        destination: The folder to write.
        text_assets: The folder of the tokenizer that the model was trained with. The modes with text need it.
        audio_assets: The folder of its preprocessor_config.json. Without one the defaults of transformers are written.
        notice: A remark for config.json.
        dtype: The dtype of the tensors, of NumPy or ml_dtypes.

    Raises:
        InvalidInput: The destination exists, the layout has no place for the model, or a tensor is not finite in
            `dtype`.
        UnreadableInput: The folder can't be written.
    """
    if odd := parameters.keys() ^ parameter_shapes(config).keys():
        raise KeyError(f"parameters missing or unknown: {sorted(odd)}")
    check_text_encoder(config)
    with atomic_folder(destination) as folder:
        for name, table in tables_of(config).items():
            place = folder if name == MODEL else folder / TEXT_ENCODER
            place.mkdir(exist_ok=True)
            with np.errstate(over="ignore"):  # Values that overflow are reported below.
                own = {path: np.asarray(parameters[path]).astype(dtype, copy=False) for path in table.shapes}
            tensors = table.layout.tensors(own)
            tensors |= {key: value.astype(dtype) for key, value in _never_used(config, name).items()}
            if broken := [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]:
                raise InvalidInput(
                    f"{destination} would hold tensors that are not finite in {np.dtype(dtype)}: {', '.join(broken)}; "
                    "go back to a checkpoint from before the loss diverged, or choose a wider dtype"
                )
            check_disk_space(place, sum(tensor.nbytes for tensor in tensors.values()))
            save_tensors(tensors, place / SINGLE)
            settings = _settings(config, name) | {"dtype": str(np.dtype(dtype))}
            _write_json(place / CONFIG, settings | ({"notice": notice} if notice else {}))
        _copy_assets(config, folder, text_assets, audio_assets)


def publish_and_convert(
    config: EmotionConfig,
    language: str,
    parameters: Parameters,
    published: Path,
    converted: Path,
    *,
    text_assets: Path | None = None,
    audio_assets: Path | None = None,
    notice: str | None = None,
) -> None:
    """Write a model as a published folder in float32, and convert that folder. For the arguments see `publish`.

    Raises:
        InvalidInput: A destination exists, the layout has no place for the model, or a tensor is not finite.
        UnreadableInput: A folder can't be written.
    """
    publish(config, parameters, published, text_assets=text_assets, audio_assets=audio_assets, notice=notice)
    text_encoder = Origin.local(published / TEXT_ENCODER) if config.mode in FUSION_MODES else None
    source = Origin.local(published)
    convert(open_emotion(source, config.mode, language, text_encoder=text_encoder, labels=config.labels), converted)


def check_text_encoder(config: EmotionConfig) -> None:
    """Raise InvalidInput if the published layout of a mode has no place for the kind of its text encoder."""
    needed = "roberta" if config.mode == "text" else "bert"
    if config.text is not None and config.text.model_type != needed:
        raise InvalidInput(
            f"mode {config.mode!r} is published with a text encoder of model_type {needed!r}, and this one is of "
            f"{config.text.model_type!r}; train it with model.text.model_type = {needed!r}"
        )


def _never_used(config: EmotionConfig, part: str) -> dict[str, np.ndarray]:
    """Return the float32 tensors that PyTorch's classes hold and no forward pass reads, ours or theirs."""
    if part == TEXT_ENCODER and config.text is not None:
        width = config.text.hidden_size
        return {"pooler.dense.weight": np.zeros((width, width)), "pooler.dense.bias": np.zeros(width)}
    if config.mode == "text":
        return {}
    width = config.head_width
    return {"classifier.layernorm.weight": np.ones(width), "classifier.layernorm.bias": np.zeros(width)}


def _settings(config: EmotionConfig, part: str) -> dict[str, Any]:
    """Return the content of config.json for a part."""
    if part == TEXT_ENCODER and config.text is not None:
        return {"architectures": ["BertModel"], **asdict(config.text)}
    settings = {
        "architectures": [ARCHITECTURES[config.mode]],
        "id2label": {str(index): label for index, label in enumerate(config.labels)},
        "label2id": {label: index for index, label in enumerate(config.labels)},
    }
    if config.audio is None:
        assert isinstance(config.text, BertConfig)
        if config.multi_label:
            settings["problem_type"] = "multi_label_classification"
        return settings | asdict(config.text)
    return settings | _audio_settings(config.audio) | {"classifier_proj_size": config.projection_width}


def _audio_settings(config: Wav2Vec2BertConfig) -> dict[str, Any]:
    """Return the encoder's settings in config.json.

    PyTorch's class has SpecAugment's vector if one of the mask probabilities is above 0, so they must match our own
    `mask_embedding`.
    """
    settings = {"model_type": "wav2vec2-bert", **asdict(config)}
    if not settings.pop("mask_embedding"):
        return settings | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    if config.mask_time_prob == 0 == config.mask_feature_prob:
        return settings | {"mask_time_prob": Wav2Vec2BertConfig.mask_time_prob, "apply_spec_augment": False}
    return settings


def _copy_assets(config: EmotionConfig, folder: Path, text_assets: Path | None, audio_assets: Path | None) -> None:
    if config.text is not None:
        if text_assets is None:
            raise InvalidInput(f"mode {config.mode!r} needs its tokenizer; name the folder that holds it")
        place = folder if config.audio is None else folder / TEXT_ENCODER
        for name in tokenizer_files(Origin.local(text_assets)):
            shutil.copyfile(text_assets / name, place / name)
    if config.audio is not None:
        if audio_assets is not None and (audio_assets / PREPROCESSOR).is_file():
            shutil.copyfile(audio_assets / PREPROCESSOR, folder / PREPROCESSOR)
        else:
            _write_json(folder / PREPROCESSOR, PREPROCESSING)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
