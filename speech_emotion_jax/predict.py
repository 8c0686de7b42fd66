"""`predict_emotion`, the original toolkit's one function, with its parameters and result."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from .errors import InvalidInput
from .inputs.audio import AudioSource
from .inputs.features import read_clip
from .inputs.text import check_text
from .pipeline import EmotionPipeline, Prediction
from .registry import FUSION_MODES, check_language, check_mode, read_registry
from .runtime.devices import select_device

_loaded: dict[tuple[Any, ...], EmotionPipeline] = {}  # at most one: a second model would hold another 2.3 GB


def predict_emotion(
    audio_path: AudioSource | None = None,
    text: str | None = None,
    model_id: str | PathLike[str] | None = None,
    mode: str = "text",
    language: str = "es",
    device: object = None,
    model_config_path: str | PathLike[str] | None = None,
    *,
    text_encoder_id: str | PathLike[str] | None = None,
    whisper_id: str | None = None,
    revision: str | None = None,
    precision: str = "float32",
    weights: str | None = None,
    labels: Sequence[str] | None = None,
) -> Prediction:
    """Emotion of one recording, one text, or both.

    The positional parameters, their defaults and the result are those of `speech_emotion.predict_emotion`; what a mode
    does not use is accepted and ignored. `audio_path` may also be bytes or {"array": ..., "sampling_rate": ...}. The
    model stays loaded until another is asked for or `close` is called.

    Returns {"top_label": str, "top_score": float, "scores": {label: probability}}, and "truncated": True where audio
    past 160 s or text past 512 tokens was left out. Raises InvalidInput (a ValueError) or UnreadableInput (an OSError).
    """
    mode, language = check_mode(mode), check_language(language)
    registry = read_registry(model_config_path)
    settings = {
        "model_id": str(model_id or registry.model_id(language, mode)),
        "mode": mode,
        "language": language,
        "text_encoder": str(text_encoder_id) if text_encoder_id and mode in FUSION_MODES else None,
        "precision": precision,
        "device": select_device(device),
        "revision": revision,
        "weights": weights,
        "labels": None if labels is None else tuple(labels),
    }
    example = _read(mode, audio_path, text)  # before gigabytes are loaded in vain
    key = (*settings.values(), str(registry))
    if key not in _loaded:
        close()
        _loaded[key] = EmotionPipeline.from_pretrained(**settings, registry=registry, batch_size=1)
    return _loaded[key].predict([example])[0]


def _read(mode: str, audio: AudioSource | None, text: str | None) -> dict[str, Any]:
    """What the mode uses, the recording decoded. Raises InvalidInput or UnreadableInput."""
    example: dict[str, Any] = {}
    if mode != "audio":
        if text is None:
            unheard = "" if audio is None else " (transcription is not built in yet; mode audio needs none)"
            raise InvalidInput(f"mode {mode!r} needs the text that was said{unheard}: pass text (--text)")
        example["text"] = check_text(text)
    if mode != "text":
        if audio is None:
            raise InvalidInput(f"mode {mode!r} needs audio: pass audio_path (--audio)")
        example["audio"] = read_clip(audio)
    return example


def close() -> None:
    """Free the model that `predict_emotion` keeps loaded."""
    while _loaded:
        _loaded.popitem()[1].close()
