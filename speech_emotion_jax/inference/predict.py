"""`predict_emotion`, the single function of the original toolkit, with its parameters and its result."""

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
from ..runtime.compile_cache import disable_compile_cache, enable_compile_cache
from ..runtime.devices import select_device
from ..text import check_text
from ..whisper import Transcript, TranscriptionOptions, WhisperPipeline, cached_transcripts
from .model_store import ModelStore
from .pipeline import EmotionPipeline, Prediction

_emotion_models: ModelStore[EmotionPipeline] = ModelStore()
_transcribers: ModelStore[WhisperPipeline] = ModelStore()


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
    """Predict the emotion of one recording, one text, or both.

    The positional parameters, their defaults and the result are those of `speech_emotion.predict_emotion`. An argument
    that the mode does not use is ignored.

    May be called from several threads. The models stay loaded for the next call: at most SPEECH_EMOTION_JAX_MODELS
    (default 1) emotion models and as many transcribers. A call that needs another model waits until a loaded one is no
    longer in use and takes its place. `close` frees them.

    Enables JAX's persistent compilation cache, unless the user has configured it; `close` restores the settings.

    Args:
        audio_path: A path, bytes, {"array": samples, "sampling_rate": Hz}, or another form that `audio.as_cut` takes.
            With a key "channel", as in {"path": "call.wav", "channel": 0}, one channel is used.
        text: The words that were said. If the mode needs them and they are None, the recording is transcribed.
        model_id: A hub id, a published folder or a converted folder. None selects the published checkpoint of the
            mode and language.
        mode: "text", "audio", "concat", "mean" or "multihead".
        language: "es" or "en".
        device: None for JAX's default, "cpu", "gpu", "cuda", "cuda:1", "tpu", or a jax.Device.
        model_config_path: A model.json of the toolkit, which names the checkpoints.
        text_encoder_id: The frozen text encoder of a fusion mode. None selects the one inside the checkpoint, or else
            the language's.
        whisper_id: The transcriber. None selects the one in the model file, or else openai/whisper-large-v3-turbo.
        revision: A branch, tag or commit of the checkpoint on the hub.
        precision: "float32", which matches PyTorch, or "bfloat16", for speed.
        weights: "safetensors" or "bin" where the folder holds both.
        labels: Names of the outputs, in order, in place of those in config.json.
        transcripts: A folder in which transcripts are stored under the content of their recordings.

    Returns:
        {"top_label": str, "top_score": float, "scores": {label: probability}}. "truncated" is True if audio past 160 s
        or text past 512 tokens was left out. "text" is the transcript if the recording was transcribed.

    Raises:
        InvalidInput: An argument can't be used. It is a ValueError.
        UnreadableInput: A file or download is missing or broken. It is an OSError.
    """
    enable_compile_cache()
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
    untranscribed = audio_path if mode != "audio" and text is None else None
    example = _read_example(mode, audio_path, text)  # Bad input is refused before gigabytes are loaded.
    if untranscribed is not None:
        transcriber = whisper_id or registry.whisper_id(language)
        example["text"] = _transcribe(untranscribed, language, transcriber, precision, settings["device"], transcripts)

    def load() -> EmotionPipeline:
        return EmotionPipeline.from_pretrained(**settings, registry=registry, batch_size=1)

    with _emotion_models.borrow((*settings.values(), str(registry)), load) as pipeline:
        [prediction] = pipeline.predict([example])
    if untranscribed is not None:
        prediction["text"] = example["text"]
    return prediction


def close() -> None:
    """Free the models that `predict_emotion` keeps loaded, and restore JAX's settings of its compilation cache.

    Models that other threads use are freed when these are done.
    """
    _emotion_models.clear()
    _transcribers.clear()
    disable_compile_cache()


def _read_example(mode: str, audio: AudioSource | None, text: str | None) -> dict[str, Any]:
    """Return what the mode uses of the arguments, the recording decoded."""
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


def _transcribe(
    audio: AudioSource,
    language: str,
    whisper_id: str,
    precision: str,
    device: jax.Device,
    transcripts: str | PathLike[str] | None,
) -> str:
    """Return what is said in a recording. Raise InvalidInput if nothing is."""
    options = TranscriptionOptions(language=language, batch_size=4)

    def load() -> WhisperPipeline:
        try:
            return WhisperPipeline.from_pretrained(whisper_id, precision=precision, device=device)
        except UnreadableInput as error:
            raise UnreadableInput(
                f"no text was given, and the transcriber is missing: {error}; pass text (--text), or another "
                "transcriber (--whisper-model)"
            ) from error

    def transcribe() -> Transcript:
        with _transcribers.borrow((whisper_id, precision, device), load) as pipeline:
            [transcript] = pipeline.transcribe([audio], options)
        return transcript

    if transcripts is None:
        transcript = transcribe()
    else:
        settings = {"whisper": whisper_id, "precision": precision, **asdict(options)}
        transcript = cached_transcripts(Path(transcripts), audio, settings, transcribe)
    if not transcript["text"]:
        raise InvalidInput(
            f"nothing that is said in {describe(audio)} could be transcribed (no-speech probability "
            f"{transcript['no_speech_probability']:.2f}); pass text (--text), or use mode audio"
        )
    return transcript["text"]
