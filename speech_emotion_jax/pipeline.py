"""From recordings and texts to probabilities: loads a checkpoint once, compiles once a bucket, predicts in batches."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count, islice
from os import PathLike
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from .checkpoints import Checkpoint, Request, load_checkpoint
from .errors import InvalidInput, SpeechEmotionError
from .inputs.audio import describe
from .inputs.batches import FRAME_BUCKETS, TOKEN_BUCKETS, Batch, pad_tokens, plan_batches
from .inputs.features import Clip, Statistics, feature_frames, features, read_clip, samples_for
from .inputs.text import TextTokenizer, Tokens
from .models.emotion import EmotionModel
from .registry import PUBLISHED, Registry
from .runtime.devices import select_device
from .runtime.progress import bar

logger = logging.getLogger("speech_emotion_jax")


class Prediction(TypedDict):
    """What is said of one clip. Probabilities sum to 1, except those of a multi-label text checkpoint."""

    top_label: str
    top_score: float
    scores: dict[str, float]
    truncated: NotRequired[bool]  # there, and true, where audio past 160 s or text past 512 tokens was left out
    text: NotRequired[str]  # there where the recording was transcribed: the words that were used


class _Inputs(NamedTuple):
    """One example, read: what the mode does not use is None."""

    clip: Clip | None
    tokens: Tokens | None

    @property
    def truncated(self) -> bool:
        return any(each is not None and each.truncated for each in self)


class EmotionPipeline:
    """A loaded checkpoint that predicts.

    >>> pipeline = EmotionPipeline.from_pretrained("UMUTeam/w2v-bert-emotion-es", mode="audio", language="es")
    >>> pipeline.predict([{"audio": "clip.wav"}])
    """

    def __init__(self, checkpoint: Checkpoint, device: jax.Device, *, batch_size: int = 8):
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; it must be at least 1")
        config = checkpoint.config
        self.config = config
        self.language = checkpoint.language
        self.device = device
        self.batch_size = batch_size
        graph, self._parameters = nnx.split(checkpoint.model)
        self._tokenizer = TextTokenizer(checkpoint.text_folder, config.text.max_tokens) if config.text else None
        self._padding_value = checkpoint.padding_value if config.audio else 0.0
        self._compiled_shapes: set[tuple[str, tuple[int, ...]]] = set()
        self._encode_audio = _jitted(graph, EmotionModel.encode_audio)
        self._encode_text = _jitted(graph, EmotionModel.encode_text)
        self._classify = _jitted(graph, lambda model, *vectors: model.probabilities(model.classify(*vectors)))

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | PathLike[str],
        *,
        mode: str | None = None,
        language: str | None = None,
        text_encoder: str | PathLike[str] | None = None,
        precision: str = "float32",
        device: object = None,
        batch_size: int = 8,
        revision: str | None = None,
        weights: str | None = None,
        labels: Sequence[str] | None = None,
        registry: Registry = PUBLISHED,
    ) -> EmotionPipeline:
        """Load a checkpoint: a hub id, a published folder, or a converted folder.

        A converted folder knows its mode and language; the others need both. `text_encoder` is the frozen encoder of
        the fusion modes (default: the one in the folder, else the language's). `precision` is "float32", which matches
        PyTorch, or "bfloat16", for speed. `device` is None, "cpu", "gpu", "cuda", "cuda:1", "tpu" or a jax.Device.
        `weights` chooses "safetensors" or "bin" where a folder has both; `labels` names the outputs of a checkpoint
        with labels of its own.
        Raises InvalidInput (a ValueError) or UnreadableInput (an OSError).
        """
        request = Request(
            str(model_id),
            mode=mode,
            language=language,
            text_encoder=str(text_encoder) if text_encoder else None,
            revision=revision,
            weights=weights,
            labels=None if labels is None else tuple(labels),
            registry=registry,
        )
        chosen = select_device(device)
        return cls(load_checkpoint(request, chosen, precision), chosen, batch_size=batch_size)

    def predict(self, examples: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        """Predict each example, a mapping with "audio" and "text" as the mode needs; what it does not need is ignored.

        Audio is a path, bytes, {"array": samples or (channels, samples), "sampling_rate": Hz}, or a Clip that was read
        before. An example's result does not depend on the others. Raises InvalidInput or UnreadableInput for the first
        example that can't be used.
        """
        self._check_open()
        predictions: list[Prediction] = []
        # `map` and no comprehension: a warning counts frames up to the caller, and in Python 3.11 that would be one.
        inputs = map(self._read, examples, count())
        while chunk := list(islice(inputs, 8 * self.batch_size)):  # what is in memory at a time
            predictions += self._predict(chunk)
        return predictions

    def close(self) -> None:
        """Free the parameters and the compiled programs; the pipeline can't predict any more."""
        self._parameters = None
        for jitted in (self._encode_audio, self._encode_text, self._classify):
            jitted.clear_cache()
        gc.collect()  # splitting a model leaves cycles that hold its arrays

    def _read(self, example: object, number: int) -> _Inputs:
        """Decode and tokenize what the mode needs of `examples[number]`; errors and warnings say which one it is."""
        clip = tokens = None
        try:
            if not isinstance(example, Mapping):
                raise InvalidInput(f"a {type(example).__name__} is no example; pass {{'audio': ..., 'text': ...}}")
            audio, text = example.get("audio"), example.get("text")
            if self.config.audio is not None:
                if audio is None:
                    raise InvalidInput(f"mode {self.config.mode!r} needs 'audio': a path, bytes or array and rate")
                clip = audio if isinstance(audio, Clip) else read_clip(audio)
            if self._tokenizer is not None:
                if text is None:
                    raise InvalidInput(f"mode {self.config.mode!r} needs 'text', the words that were said")
                tokens = self._tokenizer(text)
        except SpeechEmotionError as error:
            raise type(error)(f"examples[{number}]: {error}") from error
        if clip is not None and clip.truncated:
            name = "the recording" if isinstance(audio, Clip) else describe(audio)
            warnings.warn(f"{name} is longer than 160 s; only the first 160 s are scored", stacklevel=3)
        if tokens is not None and tokens.truncated:
            limit = len(tokens.ids)
            warnings.warn(
                f"the text {str(text)[:40]!r}... has more than {limit} tokens; only the first {limit} are scored",
                stacklevel=3,
            )
        return _Inputs(clip, tokens)

    def _predict(self, inputs: list[_Inputs]) -> list[Prediction]:
        clips = [each.clip for each in inputs if each.clip is not None]
        tokens = [each.tokens for each in inputs if each.tokens is not None]
        audio = self._audio_vectors(clips) if clips else None
        text = self._text_vectors(tokens) if tokens else None
        probabilities = np.concatenate(list(self._probabilities(len(inputs), audio, text)))
        return [self._prediction(row, each.truncated) for row, each in zip(probabilities, inputs, strict=True)]

    def _audio_vectors(self, clips: Sequence[Clip]) -> Float[np.ndarray, "clips width"]:
        vectors: dict[int, np.ndarray] = {}
        # A recording over 160 s brings its own statistics, so it shares no batch with shorter ones.
        for part in (
            [item for item, clip in enumerate(clips) if not clip.truncated],
            [item for item, clip in enumerate(clips) if clip.truncated],
        ):
            lengths = [feature_frames(len(clips[item].waveform)) for item in part]
            for batch in plan_batches(lengths, FRAME_BUCKETS, self.batch_size):
                chosen = [clips[part[item]] for item in batch.items]
                encoded = self._run(self._encode_audio, "the audio encoder", *self._features(chosen, batch))
                for item, vector in zip(batch.items, encoded, strict=False):
                    vectors[part[item]] = vector
        return np.stack([vectors[item] for item in range(len(clips))])

    def _features(self, clips: list[Clip], batch: Batch) -> tuple[jax.Array, jax.Array]:
        rows = clips + clips[:1] * (batch.size - len(clips))  # what fills the batch is a real clip: no special case
        waveforms = np.zeros((batch.size, samples_for(batch.length)), np.float32)
        for row, clip in enumerate(rows):
            waveforms[row, : len(clip.waveform)] = clip.waveform[: waveforms.shape[1]]
        lengths = np.array([len(clip.waveform) for clip in rows], np.int32)
        statistics = None
        if clips[0].statistics is not None:
            statistics = Statistics(*(np.concatenate(each) for each in zip(*(c.statistics for c in rows), strict=True)))
        put = partial(jax.device_put, device=self.device)
        return features(
            put(waveforms), put(lengths), padding_value=self._padding_value, statistics=statistics and put(statistics)
        )

    def _text_vectors(self, tokens: Sequence[Tokens]) -> Float[np.ndarray, "texts width"]:
        assert self.config.text is not None
        ids = [each.ids for each in tokens]
        buckets = sorted({min(length, self.config.text.max_tokens) for length in TOKEN_BUCKETS})
        vectors: dict[int, np.ndarray] = {}
        for batch in plan_batches([len(each) for each in ids], buckets, self.batch_size):
            inputs = jax.device_put(pad_tokens(ids, batch, self.config.text.pad_token_id), self.device)
            for item, vector in zip(
                batch.items, self._run(self._encode_text, "the text encoder", *inputs), strict=False
            ):
                vectors[item] = vector
        return np.stack([vectors[item] for item in range(len(ids))])

    def _probabilities(
        self, count: int, audio: np.ndarray | None, text: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, "clips labels"]]:
        for start in range(0, count, self.batch_size):
            rows = slice(start, min(start + self.batch_size, count))
            fill = ((0, self.batch_size - (rows.stop - start)), (0, 0))
            inputs = [
                None if each is None else jax.device_put(np.pad(each[rows], fill), self.device)
                for each in (audio, text)
            ]
            yield self._run(self._classify, "the head", *inputs)[: rows.stop - start]

    def _prediction(self, probabilities: Float[np.ndarray, " labels"], truncated: bool) -> Prediction:
        scores = {label: float(score) for label, score in zip(self.config.labels, probabilities, strict=True)}
        top = max(scores, key=scores.__getitem__)
        prediction = Prediction(top_label=top, top_score=scores[top], scores=scores)
        if truncated:
            prediction["truncated"] = True
        return prediction

    def _run(self, jitted: Any, name: str, *inputs: jax.Array | None) -> np.ndarray:
        shape = next(each.shape for each in inputs if each is not None)[:2]
        compiling = nullcontext()
        if (name, shape) not in self._compiled_shapes:
            self._compiled_shapes.add((name, shape))
            logger.debug("compiling %s for %d x %d (%d shapes so far)", name, *shape, len(self._compiled_shapes))
            compiling = bar(f"Compiling {name} for {shape[0]} x {shape[1]}")
        with compiling:
            return np.asarray(jitted(self._parameters, *inputs))

    def _check_open(self) -> None:
        if self._parameters is None:
            raise RuntimeError("this pipeline was closed; load it again with EmotionPipeline.from_pretrained")


def _jitted(graph: nnx.GraphDef, method: Callable[..., jax.Array]) -> Any:
    """A model's method, compiled, as a function of its parameters and inputs. It holds the structure only."""
    return jax.jit(lambda parameters, *inputs: method(nnx.merge(graph, parameters), *inputs))
