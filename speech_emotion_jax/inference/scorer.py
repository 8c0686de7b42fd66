"""A checkpoint's compiled programs on a mesh: clips and tokens to vectors, vectors to probabilities.

Each device takes an equal share of a batch's rows and computes them by itself: the parameters are on every device, and
nothing is exchanged. Calls return at once, before the devices are done.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from ..audio import MEL_BINS, AudioSource, Clip, MelStatistics, features, pad_clips, read_clip, samples_for
from ..checkpoints import Checkpoint
from ..config import EmotionConfig
from ..errors import InvalidInput
from ..models import EmotionModel
from ..runtime.cache_folder import cache_folder
from ..runtime.progress import bar
from ..text import Tokens, load_cached_tokenizer
from .batching import TOKEN_BUCKETS, bucket, pad_tokens
from .encoder_programs import Step, encoder_steps

logger = logging.getLogger("speech_emotion_jax")


class Scorer:
    """A checkpoint on the devices of a mesh, with its tokenizer.

    `compile_seconds` is what compiling has taken so far; every shape of a batch is compiled once.
    """

    def __init__(self, checkpoint: Checkpoint, mesh: Mesh):
        self.config = checkpoint.config
        self.language = checkpoint.language
        self.mesh = mesh
        self.compile_seconds = 0.0
        self._tokenizer = None
        if self.config.text is not None:
            kept = cache_folder() / "tokenizers"
            self._tokenizer = load_cached_tokenizer(checkpoint.text_folder, self.config.text.max_tokens, kept)
        model, platform = checkpoint.model, mesh.devices.flat[0].platform
        self._audio: list[Step] = []
        self._text: list[Step] = []
        if model.audio_encoder is not None:
            self._audio = encoder_steps(model, "audio", EmotionModel.pool, platform)
        if model.text_encoder is not None:
            self._text = encoder_steps(model, "text", lambda _, states: states.last[:, 0], platform)
        graph, self._parameters = nnx.split(model)
        self._programs: dict[Any, Any] = {}
        padding_value = checkpoint.padding_value if self.config.audio else 0.0
        self._features = partial(_features, padding_value)
        self._classify = partial(_classify, graph)

    def clip(self, audio: AudioSource | Clip | None) -> Clip | None:
        """Decode a recording, where the mode hears; else None. May be called from several threads.

        Raises InvalidInput where there is none or it can't be used, and UnreadableInput.
        """
        if self.config.audio is None:
            return None
        if audio is None:
            raise InvalidInput(f"mode {self.config.mode!r} needs 'audio': a path, bytes or array and rate")
        return audio if isinstance(audio, Clip) else read_clip(audio)

    def tokens(self, text: object) -> Tokens | None:
        """Tokenize a text, where the mode reads; else None. Raises InvalidInput where there is none or it is blank."""
        if self._tokenizer is None:
            return None
        if text is None:
            raise InvalidInput(f"mode {self.config.mode!r} needs 'text', the words that were said")
        return self._tokenizer(text)

    def token_bucket(self, longest: int) -> int:
        """The length to which a batch of texts is padded, its longest one having that many tokens."""
        assert self.config.text is not None
        return min(bucket(longest, TOKEN_BUCKETS), self.config.text.max_tokens)

    def audio_vectors(self, clips: Sequence[Clip], frames: int) -> Float[Array, "batch width"]:
        """A vector a clip. All are over 160 s, or none is; `frames` is the bucket."""
        heard = self._run("the features", self._features, (), *self._put(pad_clips(clips, frames)))
        return self.encode_audio(*heard)

    def encode_audio(
        self, features: Float[Array, "batch frames features"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch width"]:
        """The vectors of clips whose features are there."""
        return self._encode(self._audio, features, mask)

    def text_vectors(self, tokens: Sequence[Tokens], length: int) -> Float[Array, "batch width"]:
        """A vector a text; `length` is the bucket."""
        assert self.config.text is not None
        padded = pad_tokens([each.ids for each in tokens], length, self.config.text.pad_token_id)
        return self._encode(self._text, *self._put(padded))

    def probabilities(
        self,
        audio: Float[Array | np.ndarray, "batch audio_width"] | None,
        text: Float[Array | np.ndarray, "batch text_width"] | None,
    ) -> Float[Array, "batch labels"]:
        """Probabilities of the labels from the vectors that the mode uses; the other is None."""
        vectors = [None if each is None else self._put(each) for each in (audio, text)]
        return self._run("the head", self._classify, self._parameters, *vectors)

    def compile_audio(self, rows: int, frames: int, *, truncated: bool = False) -> None:
        """Compile what `audio_vectors` runs for so many clips; like the two below it computes nothing.

        The checkpoint may be an outline. May be called from several threads for different shapes.
        """
        waveforms, lengths = self._rows(rows, samples_for(frames)), self._rows(rows, dtype=np.int32)
        statistics = MelStatistics(*[self._rows(rows, MEL_BINS)] * 2) if truncated else None
        program = self._compiled("the features", self._features, (), waveforms, lengths, statistics)
        self._compile(self._audio, *program.out_info)

    def compile_text(self, rows: int, length: int) -> None:
        """Compile what `text_vectors` runs for so many texts."""
        ids, mask = self._rows(rows, length, dtype=np.int32), self._rows(rows, length, dtype=bool)
        self._compile(self._text, ids, mask)

    def compile_head(self, rows: int) -> None:
        """Compile what `probabilities` runs for so many rows."""
        widths = (self.config.audio and self.config.projection_width, self.config.text and self.config.text.hidden_size)
        vectors = [None if width is None else self._rows(rows, width) for width in widths]
        self._compiled("the head", self._classify, self._parameters, *vectors)

    def check_open(self) -> None:
        if self._parameters is None:
            raise RuntimeError("this pipeline was closed; load it again with EmotionPipeline.from_pretrained")

    def close(self) -> None:
        """Free the parameters and the compiled programs."""
        self._parameters = None
        for held in (self._audio, self._text, self._programs):
            held.clear()
        gc.collect()  # splitting a model leaves cycles that hold its arrays

    @property
    def _divided(self) -> NamedSharding:
        """Rows of a batch, divided over the devices."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def _put(self, arrays: Any) -> Any:
        return jax.device_put(arrays, self._divided)

    def _rows(self, *shape: int, dtype: Any = np.float32) -> Any:
        """What `_put` makes of an array of that shape, as a jax.ShapeDtypeStruct."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._divided)

    def _encode(self, steps: Sequence[Step], x: jax.Array, mask: jax.Array) -> jax.Array:
        for name, function, parameters in steps:
            x = self._run(name, function, parameters, x, mask)
        return x

    def _compile(self, steps: Sequence[Step], x: Any, mask: Any) -> None:
        for name, function, parameters in steps:
            known = self._programs.get((name, _shapes((x, mask))))
            x = (known or self._compiled(name, function, parameters, x, mask)).out_info

    def _run(self, name: str, function: Callable[..., Any], parameters: Any, *batch: Any) -> Any:
        program = self._programs.get((name, _shapes(batch)))
        if program is None:
            with bar(f"Compiling {name}"):
                program = self._compiled(name, function, parameters, *batch)
        return program(parameters, *batch)

    def _compiled(self, name: str, function: Callable[..., Any], parameters: Any, *batch: Any) -> jax.stages.Compiled:
        """The program for a batch of these shapes, which `_run` finds from now on: each device computes its rows."""
        shapes = _shapes(batch)
        rows, length = [*shapes[0], 1][:2]
        logger.debug("compiling %s for %d x %d (%d shapes so far)", name, rows, length, len(self._programs) + 1)
        started = time.perf_counter()
        own, whole = self._divided.spec, PartitionSpec()
        by_itself = jax.shard_map(
            function, mesh=self.mesh, in_specs=(whole, *[own] * len(batch)), out_specs=own, check_vma=False
        )
        program = self._programs[name, shapes] = jax.jit(by_itself).lower(parameters, *batch).compile()
        self.compile_seconds += time.perf_counter() - started
        return program


def clips_at_once(config: EmotionConfig, platform: str) -> int:
    """How many clips a device is best given at once: 8, or one by one where a CPU hears.

    A clip alone keeps a CPU's cores busy, and others would only add their padding and shapes to compile.
    """
    return 1 if platform == "cpu" and config.audio is not None else 8


def _shapes(batch: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(each.shape for each in jax.tree.leaves(batch))


def _features(
    padding_value: float, _: tuple[()], waveforms: jax.Array, lengths: jax.Array, statistics: MelStatistics | None
) -> tuple[jax.Array, jax.Array]:
    return features(waveforms, lengths, padding_value=padding_value, statistics=statistics)


def _classify(graph: nnx.GraphDef, parameters: Any, *vectors: jax.Array | None) -> jax.Array:
    """It holds the model's structure only."""
    model = nnx.merge(graph, parameters)
    return model.probabilities(model.classify(*vectors))
