"""Emotion recognition from Spanish and English speech and text, in JAX.

    from speech_emotion_jax import predict_emotion
    predict_emotion("clip.wav", mode="audio", language="es")

`speech_emotion_jax.functional` has the models as pure functions, to build on.

Names are imported on first use, so that `import speech_emotion_jax` and the command line's --help are fast. The import
changes no setting of JAX, no environment variable and no logging level.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import functional
    from .config import EmotionConfig
    from .errors import InvalidInput, SpeechEmotionError, UnreadableInput
    from .inference import EmotionPipeline, close, predict_emotion
    from .models import EmotionModel
    from .whisper import FlaxWhisperPipline, TranscriptionOptions, WhisperPipeline

    __version__: str

_MODULE_OF = {
    "EmotionConfig": "config",
    "EmotionModel": "models",
    "EmotionPipeline": "inference",
    "FlaxWhisperPipline": "whisper",
    "InvalidInput": "errors",
    "SpeechEmotionError": "errors",
    "TranscriptionOptions": "whisper",
    "UnreadableInput": "errors",
    "WhisperPipeline": "whisper",
    "close": "inference",
    "predict_emotion": "inference",
}

_NEED_JAX = {"inference", "models", "whisper"}

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
    "__version__",
    "close",
    "functional",
    "predict_emotion",
]


def __getattr__(name: str) -> object:
    if name == "functional" or _MODULE_OF.get(name) in _NEED_JAX:
        import_module(".runtime.versions", __name__).require_tested_versions()
    if name == "functional":
        return import_module(".functional", __name__)
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
