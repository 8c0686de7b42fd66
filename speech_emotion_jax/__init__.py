"""Emotion recognition from Spanish and English speech and text, in JAX.

    from speech_emotion_jax import predict_emotion
    predict_emotion("clip.wav", mode="audio", language="es")

`speech_emotion_jax.functional` has the models as pure functions, to build on.

Names are imported on first use, so that `import speech_emotion_jax` and the command line's --help stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import EmotionConfig
    from .errors import InvalidInput, SpeechEmotionError, UnreadableInput
    from .models.emotion import EmotionModel
    from .pipeline import EmotionPipeline
    from .predict import close, predict_emotion
    from .transcribe import TranscriptionOptions, WhisperPipeline
    from .whisper_jax import FlaxWhisperPipline

_HOME = {
    "EmotionConfig": "config",
    "EmotionModel": "models.emotion",
    "EmotionPipeline": "pipeline",
    "FlaxWhisperPipline": "whisper_jax",
    "InvalidInput": "errors",
    "TranscriptionOptions": "transcribe",
    "SpeechEmotionError": "errors",
    "UnreadableInput": "errors",
    "WhisperPipeline": "transcribe",
    "close": "predict",
    "predict_emotion": "predict",
}

__all__ = [
    "EmotionConfig",
    "EmotionModel",
    "EmotionPipeline",
    "FlaxWhisperPipline",
    "InvalidInput",
    "SpeechEmotionError",
    "TranscriptionOptions",
    "UnreadableInput",
    "WhisperPipeline",
    "close",
    "predict_emotion",
]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return import_module(".functional", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "functional"})
