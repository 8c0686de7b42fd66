"""`predict_emotion`, the original toolkit's one function, with its parameters and result."""

from __future__ import annotations

from os import PathLike
from typing import Any

from .errors import InvalidInput
from .inputs.audio import AudioSource
from .pipeline import EmotionPipeline, Prediction
from .registry import check_language, check_mode, read_registry

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
    labels: tuple[str, ...] | None = None,
) -> Prediction:
    """Emotion of one recording, one text, or both.

    The positional parameters, their defaults and the result are those of `speech_emotion.predict_emotion`; what a mode
    does not use is accepted and ignored. `audio_path` may also be bytes or {"array": ..., "sampling_rate": ...}. The
    model stays loaded until another is asked for or `close` is called.

    Returns {"top_label": str, "top_score": float, "scores": {label: probability}}, and "truncated": True where audio past
    160 s or text past 512 tokens was left out. Raises InvalidInput (a ValueError) or UnreadableInput (an OSError).
    """
    mode, language = check_mode(mode), check_language(language)
    if mode != "text" and audio_path is None:
        raise InvalidInput(f"mode {mode!r} needs audio; pass audio_path (--audio)")
    if mode == "text" and audio_path is None and text is None:
        raise InvalidInput("mode 'text' needs text; pass text (--text)")
    if mode != "audio" and text is None:
        raise InvalidInput(
            f"mode {mode!r} needs the text that was said: transcription with Whisper is not built in yet; "
            "pass text (--text), or use mode audio"
        )
    registry = read_registry(model_config_path)
    settings = {
        "model_id": str(model_id or registry.model_id(language, mode)),
        "mode": mode,
        "language": language,
        "text_encoder": text_encoder_id and str(text_encoder_id),
        "precision": precision,
        "device": None if device is None else str(device),
        "revision": revision,
        "weights": weights,
        "labels": labels and tuple(labels),
    }
    key = (*settings.values(), str(registry))
    if key not in _loaded:
        close()
        _loaded[key] = EmotionPipeline.from_pretrained(**settings, registry=registry, batch_size=1)
    return _loaded[key].predict([{"audio": audio_path, "text": text}])[0]


def close() -> None:
    """Free the model that `predict_emotion` keeps loaded."""
    while _loaded:
        _loaded.popitem()[1].close()
