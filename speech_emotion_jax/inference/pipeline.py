"""From recordings and texts to probabilities: loads a checkpoint once, compiles once a bucket, predicts in batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from os import PathLike
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from ..audio import Clip, describe, feature_frames
from ..checkpoints import Request, load_checkpoint
from ..errors import InvalidInput, SpeechEmotionError
from ..registry import PUBLISHED, Registry
from ..runtime.devices import select_device, select_mesh
from ..text import Tokens
from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, filled, plan_batches
from .scorer import Scorer, clips_at_once


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

    def __init__(self, scorer: Scorer, *, batch_size: int | None = None):
        if batch_size is None:
            batch_size = clips_at_once(scorer.config, scorer.mesh.devices.flat[0].platform)
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; it must be at least 1")
        self.scorer = scorer
        self.config = scorer.config
        self.language = scorer.language
        self.batch_size = batch_size

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
        batch_size: int | None = None,
        revision: str | None = None,
        weights: str | None = None,
        labels: Sequence[str] | None = None,
        registry: Registry = PUBLISHED,
    ) -> EmotionPipeline:
        """Load a checkpoint: a hub id, a published folder, or a converted folder.

        A converted folder knows its mode and language; the others need both. `text_encoder` is the frozen encoder of
        the fusion modes (default: the one in the folder, else the language's). `precision` is "float32", which matches
        PyTorch, or "bfloat16", for speed. `device` is None, "cpu", "gpu", "cuda", "cuda:1", "tpu" or a jax.Device.
        `batch_size` is how many clips are computed at once (default: 8, or one by one where a CPU hears, which is
        faster there). `weights` chooses "safetensors" or "bin" where a folder has both; `labels` names the outputs of
        a checkpoint with labels of its own.
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
        mesh = select_mesh(select_device(device))
        checkpoint = load_checkpoint(request, NamedSharding(mesh, PartitionSpec()), precision)
        return cls(Scorer(checkpoint, mesh), batch_size=batch_size)

    def predict(self, examples: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        """Predict each example, a mapping with "audio" and "text" as the mode needs; what it does not need is ignored.

        Audio is a path, bytes, {"array": samples or (channels, samples), "sampling_rate": Hz}, or a Clip that was read
        before. An example's result does not depend on the others. Raises InvalidInput or UnreadableInput for the first
        example that can't be used.
        """
        self.scorer.check_open()
        predictions: list[Prediction] = []
        # `map` and no comprehension: a warning counts frames up to the caller, and in Python 3.11 that would be one.
        inputs = map(self._read, examples, count())
        while chunk := list(islice(inputs, 8 * self.batch_size)):  # what is in memory at a time
            predictions += self._predict(chunk)
        return predictions

    def close(self) -> None:
        """Free the parameters and the compiled programs; the pipeline can't predict any more."""
        self.scorer.close()

    def _read(self, example: object, number: int) -> _Inputs:
        """Decode and tokenize what the mode needs of `examples[number]`; errors and warnings say which one it is."""
        try:
            if not isinstance(example, Mapping):
                raise InvalidInput(f"a {type(example).__name__} is no example; pass {{'audio': ..., 'text': ...}}")
            audio, text = example.get("audio"), example.get("text")
            clip, tokens = self.scorer.clip(audio), self.scorer.tokens(text)
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
                chosen = filled([clips[part[item]] for item in batch.items], batch.size)
                encoded = np.asarray(self.scorer.audio_vectors(chosen, batch.length))
                for item, vector in zip(batch.items, encoded, strict=False):
                    vectors[part[item]] = vector
        return np.stack([vectors[item] for item in range(len(clips))])

    def _text_vectors(self, tokens: Sequence[Tokens]) -> Float[np.ndarray, "texts width"]:
        vectors: dict[int, np.ndarray] = {}
        for batch in plan_batches([len(each.ids) for each in tokens], TOKEN_BUCKETS, self.batch_size):
            chosen = filled([tokens[item] for item in batch.items], batch.size)
            encoded = np.asarray(self.scorer.text_vectors(chosen, self.scorer.token_bucket(batch.length)))
            for item, vector in zip(batch.items, encoded, strict=False):
                vectors[item] = vector
        return np.stack([vectors[item] for item in range(len(tokens))])

    def _probabilities(
        self, count: int, audio: np.ndarray | None, text: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, "clips labels"]]:
        for start in range(0, count, self.batch_size):
            rows = slice(start, min(start + self.batch_size, count))
            fill = ((0, self.batch_size - (rows.stop - start)), (0, 0))
            vectors = [None if each is None else np.pad(each[rows], fill) for each in (audio, text)]
            yield np.asarray(self.scorer.probabilities(*vectors))[: rows.stop - start]

    def _prediction(self, probabilities: Float[np.ndarray, " labels"], truncated: bool) -> Prediction:
        scores = {label: float(score) for label, score in zip(self.config.labels, probabilities, strict=True)}
        top = max(scores, key=scores.__getitem__)
        prediction = Prediction(top_label=top, top_score=scores[top], scores=scores)
        if truncated:
            prediction["truncated"] = True
        return prediction
