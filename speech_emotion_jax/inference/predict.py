"""`predict_emotion`, the original toolkit's one function, with its parameters and result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from ..audio import AudioSource, describe, read_clip
from ..errors import InvalidInput, UnreadableInput
from ..registry import FUSION_MODES, check_language, check_mode, read_registry
from ..runtime.compile_cache import keep_programs
from ..runtime.devices import select_device
from ..text import check_text
from ..whisper import Transcript, TranscriptionOptions, WhisperPipeline, cached_transcripts
from .pipeline import EmotionPipeline, Prediction

# At most one of each: a second model would hold another 2.3 GB.
_loaded: dict[tuple[Any, ...], EmotionPipeline] = {}
_transcribers: dict[tuple[Any, ...], WhisperPipeline] = {}


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
    transcripts: str | PathLike[str] | None = None,
) -> Prediction:
    """Emotion of one recording, one text, or both.

    Compiled programs are kept for the next process, see `programs`, as nobody else's settings for JAX are there.

    The positional parameters, their defaults and the result are those of `speech_emotion.predict_emotion`; what a mode
    does not use is accepted and ignored. `audio_path` may also be bytes or {"array": ..., "sampling_rate": ...}. The
    model stays loaded until another is asked for or `close` is called.

    Where a mode needs text and there is none, the recording is transcribed, greedily, by `whisper_id` (default: the
    model file's, else openai/whisper-large-v3-turbo); `transcripts` is a folder in which transcripts are kept by the
    recording's content.

    Returns {"top_label": str, "top_score": float, "scores": {label: probability}}, "truncated": True where audio past
    160 s or text past 512 tokens was left out, and "text" where the recording was transcribed. Raises InvalidInput (a
    ValueError) or UnreadableInput (an OSError).
    """
    keep_programs()
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
    heard = audio_path if mode != "audio" and text is None else None
    example = _read(mode, audio_path, text)  # before gigabytes are loaded in vain
    if heard is not None:
        transcriber = whisper_id or registry.whisper_id(language)
        example["text"] = _transcribed(heard, language, transcriber, precision, settings["device"], transcripts)
    key = (*settings.values(), str(registry))
    if key not in _loaded:
        _drop(_loaded)
        _loaded[key] = EmotionPipeline.from_pretrained(**settings, registry=registry, batch_size=1)
    prediction = _loaded[key].predict([example])[0]
    if heard is not None:
        prediction["text"] = example["text"]
    return prediction


def _read(mode: str, audio: AudioSource | None, text: str | None) -> dict[str, Any]:
    """What the mode uses and the caller gave, the recording decoded. Raises InvalidInput or UnreadableInput."""
    example: dict[str, Any] = {}
    if mode != "audio" and text is not None:
        example["text"] = check_text(text)
    elif mode != "audio" and audio is None:
        raise InvalidInput(
            f"mode {mode!r} needs the text that was said: pass text (--text), or a recording to transcribe (--audio)"
        )
    if mode != "text":
        if audio is None:
            raise InvalidInput(f"mode {mode!r} needs audio: pass audio_path (--audio)")
        example["audio"] = read_clip(audio)
    return example


def _transcribed(
    audio: AudioSource,
    language: str,
    whisper_id: str,
    precision: str,
    device: jax.Device,
    transcripts: str | PathLike[str] | None,
) -> str:
    """What is said in a recording. Raises InvalidInput where that is nothing."""
    options = TranscriptionOptions(language=language, batch_size=4)

    def make() -> Transcript:
        key = (whisper_id, precision, device)
        if key not in _transcribers:
            _drop(_transcribers)
            try:
                _transcribers[key] = WhisperPipeline.from_pretrained(whisper_id, precision=precision, device=device)
            except UnreadableInput as error:
                raise UnreadableInput(
                    f"no text was given, and the transcriber is missing: {error}; pass text (--text), or another "
                    "transcriber (--whisper-model)"
                ) from error
        return _transcribers[key].transcribe([audio], options)[0]

    if transcripts is None:
        transcript = make()
    else:
        settings = {"whisper": whisper_id, "precision": precision, **asdict(options)}
        transcript = cached_transcripts(Path(transcripts), audio, settings, make)
    if not transcript["text"]:
        raise InvalidInput(
            f"nothing that is said in {describe(audio)} could be transcribed (no-speech probability "
            f"{transcript['no_speech_probability']:.2f}); pass text (--text), or use mode audio"
        )
    return transcript["text"]


def close() -> None:
    """Free the models that `predict_emotion` keeps loaded."""
    _drop(_loaded)
    _drop(_transcribers)


def _drop(models: dict[tuple[Any, ...], Any]) -> None:
    while models:
        models.popitem()[1].close()
