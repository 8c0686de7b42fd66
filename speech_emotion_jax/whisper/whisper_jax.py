"""A drop-in replacement for whisper-jax's pipeline.

Only the import changes:

    from speech_emotion_jax import FlaxWhisperPipline    # instead of: from whisper_jax import FlaxWhisperPipline

The class name is spelled as in whisper-jax. The docstrings name all differences.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NotRequired, TypedDict

import httpx2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ..audio import SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SECONDS, AudioSource
from ..errors import InvalidInput, UnreadableInput
from .options import FALLBACK, TranscriptionOptions
from .transcribe import WhisperPipeline
from .transcript import Transcript
from .vocabulary import UNSPACED_LANGUAGES

# Options by the names that transformers' `generate` has for them.
_OPTION = {
    "num_beams": "beams",
    "max_new_tokens": "max_tokens",
    "no_speech_threshold": "no_speech",
    "logprob_threshold": "log_probability",
    "compression_ratio_threshold": "compression_ratio",
    "condition_on_prev_tokens": "condition_on_previous",
}
_OFF = {"logprob_threshold": -math.inf, "compression_ratio_threshold": math.inf}  # None switches a threshold off
_CALL = ("language", "task", "return_timestamps", "temperature")


class Chunk(TypedDict):
    """A segment or a word, and its start and end in seconds."""

    timestamp: tuple[float, float]
    text: str


class Result(TypedDict):
    """The text of a recording, with a leading space as in whisper-jax. `chunks` is only there with timestamps."""

    text: str
    chunks: NotRequired[list[Chunk]]


class FlaxWhisperPipline:
    """A loaded Whisper that is called on one recording at a time.

    >>> pipeline = FlaxWhisperPipline("openai/whisper-large-v2", dtype=jnp.bfloat16)
    >>> pipeline("audio.mp3", task="transcribe", return_timestamps=True)
    """

    def __init__(
        self,
        checkpoint: str | PathLike[str] = "openai/whisper-large-v2",
        dtype: Any = jnp.float32,
        batch_size: int | None = None,
        max_length: int | None = None,
    ):
        """Load a checkpoint and put it on all devices of this process.

        Args:
            checkpoint: Hub id or folder.
            dtype: jnp.float32 or jnp.bfloat16. jnp.float16 is computed as bfloat16.
            batch_size: Default of the calls. None decodes one window per device at a time.
            max_length: Limit of prompt and text together, in tokens.

        Raises:
            InvalidInput: The dtype or the checkpoint cannot be used.
            UnreadableInput: The checkpoint cannot be fetched or read.
        """
        name = jnp.dtype(dtype).name
        if name not in ("float32", "bfloat16", "float16"):
            raise InvalidInput(f"the dtype {name} is not implemented; use jnp.float32 or jnp.bfloat16")
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.max_length = max_length
        precision = "float32" if name == "float32" else "bfloat16"
        self.pipeline = WhisperPipeline.from_pretrained(checkpoint, precision=precision)
        self.batch_size = batch_size or self.pipeline.programs.mesh.size

    def __call__(
        self,
        inputs: AudioSource | Float[np.ndarray, " samples"],
        chunk_length_s: float = 30.0,
        stride_length_s: float | Sequence[float] | None = None,
        batch_size: int | None = None,
        language: str | None = None,
        task: str | None = None,
        return_timestamps: bool | str | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Result:
        """Transcribe one recording.

        Args:
            inputs: A path, a URL, the bytes of a file, an array of samples at 16 kHz, or
                {"array" or "raw": samples, "sampling_rate": Hz}. A "stride" in it is ignored if windows overlap, as in
                whisper-jax.
            chunk_length_s: Length of a window in seconds. With 0, windows of 30 s follow each other without overlap;
                whisper-jax would transcribe the first window only.
            stride_length_s: Context on the left and right of a window in seconds. The default is a sixth of the window.
            batch_size: Windows to decode together. The default is that of the pipeline.
            language: Code or name. None detects the language once for the recording.
            task: "transcribe", the default, or "translate".
            return_timestamps: Whether to return "chunks", one per segment or, with "word", one per word.
            generate_kwargs: Any of language, task, return_timestamps, num_beams, max_new_tokens, no_speech_threshold,
                logprob_threshold, compression_ratio_threshold and condition_on_prev_tokens, as in transformers'
                `generate`; and temperature: a number, the temperatures of a fallback, or True for the original's.

        Returns:
            The text and, with timestamps, the chunks.

        Raises:
            InvalidInput: An argument or the recording cannot be used. It is a ValueError.
            UnreadableInput: The recording cannot be read. It is an OSError.
        """
        settings = self._settings(language, task, return_timestamps, generate_kwargs or {})
        window = chunk_length_s or float(WINDOW_SECONDS)
        stride = _pair(stride_length_s, window / 6 if chunk_length_s else 0.0)
        rows = self.batch_size if batch_size is None else batch_size
        options = TranscriptionOptions(window=float(window), stride=stride, batch_size=rows, **settings)
        (transcript,) = self.pipeline.transcribe([_source(inputs, chunked=bool(chunk_length_s))], options)
        return _result(transcript)

    def generate(
        self,
        input_features: Float[np.ndarray, "batch bins frames"],
        language: str | None = None,
        task: str | None = None,
        return_timestamps: bool = False,
    ) -> Int[np.ndarray, "batch length"]:
        """Decode token ids from log-mel energies.

        Args:
            input_features: Energies of shape (batch, bins, 3000).
            language: Code or name. None detects the language of each row.
            task: "transcribe", the default, or "translate".
            return_timestamps: Whether to write timestamps.

        Returns:
            Token ids, prompt and end token included, int32. Rows are padded with the end token.

        Raises:
            InvalidInput: The shape, the language or the task cannot be used.
        """
        programs, vocabulary = self.pipeline.programs, self.pipeline.vocabulary
        features = np.asarray(input_features, np.float32)
        bins = programs.config.num_mel_bins
        if features.ndim != 3 or features.shape[1:] != (bins, WINDOW_FRAMES):
            raise InvalidInput(f"the features have shape {features.shape}; give (batch, {bins}, {WINDOW_FRAMES})")
        cross_kv = programs.encode(programs.place_rows(list(features.swapaxes(1, 2))))
        if language is not None or not vocabulary.languages:
            codes = [vocabulary.language_code(language or "en")] * len(features)
        else:
            ids = list(vocabulary.languages.values())
            probable = programs.detect(cross_kv, vocabulary.start, ids, vocabulary.no_speech).languages
            codes = [list(vocabulary.languages)[best] for best in probable.argmax(axis=1)[: len(features)]]
        task = vocabulary.check_task(task or "transcribe")
        prompts = [vocabulary.prompt(code, task, timestamps=return_timestamps) for code in codes]
        result = programs.search(
            cross_kv,
            prompts,
            start=len(prompts[0]),
            rules=vocabulary.rules(timestamps=return_timestamps),
            limit=self.max_length and max(1, self.max_length - len(prompts[0])),
        )
        end = np.full((len(features), 1), vocabulary.end, np.int32)
        return np.concatenate([np.array(prompts, np.int32), result.tokens, end], axis=1)

    def shard_params(self, num_mp_partitions: int = 1, logical_axis_rules: object = None) -> None:
        """Do nothing. Parameters are replicated when they are loaded, and jit divides the batches.

        Every Whisper fits on one chip, and another placement would not change a result.

        Args:
            num_mp_partitions: Ignored. A value other than 1 warns.
            logical_axis_rules: Ignored.
        """
        if num_mp_partitions != 1:
            warnings.warn("parameters stay replicated: num_mp_partitions has no effect", stacklevel=2)

    def _settings(
        self, language: str | None, task: str | None, return_timestamps: bool | str | None, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the transcription options of a call. Its arguments override those in generate_kwargs."""
        known = (*_OPTION, *_CALL)
        if unknown := sorted(given.keys() - set(known)):
            raise InvalidInput(f"generate_kwargs has {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        given = {**given, **{name: off for name, off in _OFF.items() if name in given and given[name] is None}}
        given = {name: value for name, value in given.items() if value is not None or name == "no_speech_threshold"}
        settings = {_OPTION[name]: value for name, value in given.items() if name in _OPTION}
        settings["language"] = language or given.get("language")
        settings["task"] = task or given.get("task") or "transcribe"
        stamps = given.get("return_timestamps") if return_timestamps is None else return_timestamps
        settings["timestamps"] = "word" if stamps == "word" else "segment" if stamps else None
        temperature = given.get("temperature", 0.0)
        if temperature is True:
            settings["temperatures"] = FALLBACK
        else:
            try:
                settings["temperatures"] = tuple(np.atleast_1d(np.asarray(temperature, float)).tolist())
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"the temperature is {temperature!r}; give a number, or several") from error
        if settings.get("condition_on_previous"):
            settings["sequential"] = True
        if self.max_length is not None:
            settings.setdefault("max_tokens", max(1, self.max_length - 4))  # the prompt has 4 tokens
        return settings


def _pair(stride: float | Sequence[float] | None, default: float) -> tuple[float, float]:
    """Return the strides on the left and on the right."""
    if stride is None:
        return default, default
    pair = (stride, stride) if isinstance(stride, int | float) else tuple(stride)
    if len(pair) != 2:
        raise InvalidInput(f"stride_length_s is {stride!r}; give seconds, or two of them: left and right")
    return float(pair[0]), float(pair[1])


def _source(inputs: Any, *, chunked: bool) -> AudioSource:
    """Convert an input of whisper-jax to one of `WhisperPipeline`."""
    if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
        return _fetch(inputs)
    if isinstance(inputs, np.ndarray):
        return {"array": inputs, "sampling_rate": SAMPLE_RATE}
    if isinstance(inputs, Mapping) and inputs.get("stride") is not None and not chunked:
        raise InvalidInput("a stride needs neighbouring windows; leave it out, or give chunk_length_s")
    return inputs


def _fetch(url: str) -> bytes:
    """Download a file."""
    try:
        response = httpx2.get(url, follow_redirects=True, timeout=60)
        response.raise_for_status()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableInput(f"{url} can't be fetched ({reason}); download it and pass the file") from error
    return response.content


def _result(transcript: Transcript) -> Result:
    """Convert a transcript to the result of whisper-jax."""
    spaced = transcript["text"] and transcript["language"] not in UNSPACED_LANGUAGES
    result = Result(text=" " + transcript["text"] if spaced else transcript["text"])
    if "segments" in transcript:
        pieces = [piece for segment in transcript["segments"] for piece in (segment.get("words") or [segment])]
        result["chunks"] = [Chunk(timestamp=(piece["start"], piece["end"]), text=piece["text"]) for piece in pieces]
    return result
