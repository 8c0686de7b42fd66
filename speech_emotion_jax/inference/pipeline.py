"""Predict emotions in batches with a checkpoint that is loaded once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from os import PathLike
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from ..audio import AudioSource, Clip, describe, feature_frames
from ..checkpoints import Request, load_checkpoint
from ..errors import InvalidInput, SpeechEmotionError
from ..registry import PUBLISHED, Registry
from ..runtime.devices import select_device, select_mesh
from ..text import Tokens
from ..timeline import (
    TimelineUnit,
    Turn,
    Unit,
    Windows,
    add_texts,
    require_texts,
    segment_units,
    timeline_unit,
    turn_units,
    window_units,
)
from ..whisper import TranscriptionOptions, WhisperPipeline
from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, plan_batches, repeat_first
from .scorer import Scorer, default_batch_size


class Prediction(TypedDict):
    """The prediction for one clip.

    The probabilities sum to 1, except those of a multi-label text checkpoint. `truncated` is there, and true, if audio
    past 160 s or text past 512 tokens was left out. `text` is there if the recording was transcribed: the words that
    were used.
    """

    top_label: str
    top_score: float
    scores: dict[str, float]
    truncated: NotRequired[bool]
    text: NotRequired[str]


class _Inputs(NamedTuple):
    """One example, decoded and tokenized. What the mode does not use is None."""

    clip: Clip | None
    tokens: Tokens | None

    @property
    def truncated(self) -> bool:
        return any(each is not None and each.truncated for each in self)


class EmotionPipeline:
    """A loaded checkpoint that predicts. Threads may share it.

    >>> pipeline = EmotionPipeline.from_pretrained("UMUTeam/w2v-bert-emotion-es", mode="audio", language="es")
    >>> pipeline.predict([{"audio": "clip.wav"}])
    """

    def __init__(self, scorer: Scorer, *, batch_size: int | None = None):
        """Wrap a scorer.

        Args:
            scorer: The loaded checkpoint.
            batch_size: Number of clips that are computed together. None selects 8, or 1 where a CPU encodes audio.

        Raises:
            InvalidInput: The batch size is below 1.
        """
        if batch_size is None:
            batch_size = default_batch_size(scorer.config, scorer.mesh.devices.flat[0].platform)
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
        """Load a checkpoint.

        Args:
            model_id: A hub id, a published folder or a converted folder.
            mode: "text", "audio", "concat", "mean" or "multihead". None is allowed for a converted folder.
            language: "es" or "en". None is allowed for a converted folder.
            text_encoder: The frozen text encoder of a fusion mode. None selects the one inside the checkpoint, or else
                the language's.
            precision: "float32", which matches PyTorch, or "bfloat16", for speed.
            device: None for JAX's default, "cpu", "gpu", "cuda", "cuda:1", "tpu", or a jax.Device.
            batch_size: Number of clips that are computed together. None selects 8, or 1 where a CPU encodes audio,
                which is faster there.
            revision: A branch, tag or commit on the hub.
            weights: "safetensors" or "bin" where the folder holds both.
            labels: Names of the outputs, in order, in place of those in config.json.
            registry: The default ids of text encoders.

        Raises:
            InvalidInput: An argument can't be used or does not fit the checkpoint. It is a ValueError.
            UnreadableInput: A file or download is missing or broken. It is an OSError.
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
        """Predict each example. The result of an example does not depend on the others.

        Args:
            examples: Mappings with "audio" and "text" as the mode needs; other keys are ignored. Audio is a path,
                bytes, {"array": samples or (channels, samples), "sampling_rate": Hz}, another form that `audio.as_cut`
                takes, or a decoded Clip.

        Raises:
            InvalidInput: An example can't be used. The message names the first one.
            UnreadableInput: A recording is missing or broken.
        """
        self.scorer.check_open()
        predictions: list[Prediction] = []
        # `map` adds no stack frame, which a comprehension does in Python 3.11. Warnings count frames up to the caller.
        inputs = map(self._read, examples, count())
        while chunk := list(islice(inputs, 8 * self.batch_size)):  # Bounds the decoded audio in memory.
            predictions += self._predict(chunk)
        return predictions

    def timeline(
        self,
        recordings: Sequence[AudioSource],
        *,
        turns: Sequence[Sequence[Turn]] | None = None,
        windows: Windows | None = None,
        transcriber: WhisperPipeline | None = None,
        transcription: TranscriptionOptions | None = None,
    ) -> Iterator[TimelineUnit]:
        """Predict the parts of recordings. The parts of all recordings are scored in common batches.

        >>> for unit in pipeline.timeline(["call.wav"], windows=Windows(10, 2.5)):
        ...     print(unit["start"], unit["end"], unit["top_label"])

        The parts are the given turns or windows. With neither they are the transcriber's segments.

        Args:
            recordings: Paths, bytes or {"array": ..., "sampling_rate": ...}.
            turns: The turns of each recording in the order of their starts, see `read_turns`.
            windows: The length of windows and from one to the next.
            transcriber: Makes segments, and transcribes turns without a text and windows if the mode reads text.
            transcription: How to transcribe. None selects the pipeline's language.

        Yields:
            The parts of each recording in order, as soon as they are scored. A part that is silent, shorter than 35 ms
            or, where the mode reads text, without words is marked and has no probabilities.

        Raises:
            InvalidInput: The arguments don't fit together, or a recording or turn can't be used.
            UnreadableInput: A recording is missing or broken.
        """
        self.scorer.check_open()
        units = self._units(recordings, turns, windows, transcriber, transcription)
        while chunk := list(islice(units, 8 * self.batch_size)):
            scored = [unit for unit in chunk if unit.unscored is None]
            predictions = iter(self._predict([self._unit_inputs(unit) for unit in scored]) if scored else ())
            for unit in chunk:
                result = None if unit.unscored else next(predictions)
                yield timeline_unit(
                    unit,
                    result and result["scores"],
                    result and result["top_label"],
                    result is not None and result.get("truncated", False),
                )

    def close(self) -> None:
        """Free the parameters and the compiled programs. The pipeline can't predict any more."""
        self.scorer.close()

    def _read(self, example: object, number: int) -> _Inputs:
        """Decode and tokenize what the mode needs of `examples[number]`. Errors and warnings name the example."""
        try:
            if not isinstance(example, Mapping):
                raise InvalidInput(f"a {type(example).__name__} is not an example; pass {{'audio': ..., 'text': ...}}")
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

    def _units(
        self,
        recordings: Sequence[AudioSource],
        turns: Sequence[Sequence[Turn]] | None,
        windows: Windows | None,
        transcriber: WhisperPipeline | None,
        transcription: TranscriptionOptions | None,
    ) -> Iterator[Unit]:
        """Return the units of a timeline, with texts if the mode reads text."""
        options = transcription or TranscriptionOptions(language=self.language)
        if turns is not None and windows is not None:
            raise InvalidInput("a timeline is made of turns or of windows; give one of them")
        if turns is not None:
            if len(turns) != len(recordings):
                raise InvalidInput(f"there are turns of {len(turns)} recordings, and {len(recordings)} recordings")
            units = turn_units(recordings, turns)
        elif windows is not None:
            units = window_units(recordings, windows)
        elif transcriber is not None:
            return segment_units(recordings, transcriber, options)
        else:
            raise InvalidInput("a timeline needs turns, windows, or a transcriber that makes segments; give one")
        if self.config.text is None:
            return units
        if self.config.audio is None:  # A text is scored, whatever its sound.
            units = (unit._replace(unscored=None) if unit.text else unit for unit in units)
        return require_texts(units, self.config.mode) if transcriber is None else add_texts(units, transcriber, options)

    def _unit_inputs(self, unit: Unit) -> _Inputs:
        """Prepare a unit that can be scored. Errors name it."""
        try:
            return _Inputs(self.scorer.clip(unit.audio), self.scorer.tokens(unit.text))
        except SpeechEmotionError as error:
            place = f"{unit.recording} from {unit.start:g} to {unit.end:g} s"
            raise type(error)(str(error) if str(error).startswith(place) else f"{place}: {error}") from error

    def _predict(self, inputs: list[_Inputs]) -> list[Prediction]:
        clips = [each.clip for each in inputs if each.clip is not None]
        tokens = [each.tokens for each in inputs if each.tokens is not None]
        audio = self._audio_vectors(clips) if clips else None
        text = self._text_vectors(tokens) if tokens else None
        probabilities = np.concatenate(list(self._probabilities(len(inputs), audio, text)))
        return [self._prediction(row, each.truncated) for row, each in zip(probabilities, inputs, strict=True)]

    def _audio_vectors(self, clips: Sequence[Clip]) -> Float[np.ndarray, "clips width"]:
        vectors: dict[int, np.ndarray] = {}
        # A recording over 160 s is normalised by statistics of its whole length, which the program of shorter ones
        # does not take. So the two kinds share no batch.
        for part in (
            [item for item, clip in enumerate(clips) if not clip.truncated],
            [item for item, clip in enumerate(clips) if clip.truncated],
        ):
            lengths = [feature_frames(len(clips[item].waveform)) for item in part]
            for batch in plan_batches(lengths, FRAME_BUCKETS, self.batch_size):
                chosen = repeat_first([clips[part[item]] for item in batch.items], batch.size)
                encoded = np.asarray(self.scorer.audio_vectors(chosen, batch.length))
                for item, vector in zip(batch.items, encoded, strict=False):
                    vectors[part[item]] = vector
        return np.stack([vectors[item] for item in range(len(clips))])

    def _text_vectors(self, tokens: Sequence[Tokens]) -> Float[np.ndarray, "texts width"]:
        vectors: dict[int, np.ndarray] = {}
        for batch in plan_batches([len(each.ids) for each in tokens], TOKEN_BUCKETS, self.batch_size):
            chosen = repeat_first([tokens[item] for item in batch.items], batch.size)
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
