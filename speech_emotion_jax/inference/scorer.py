"""A checkpoint's compiled programs on the devices of a mesh.

Each device computes an equal share of a batch's rows by itself. It holds all parameters, so the devices exchange
nothing. Calls return before the devices are done.
"""

from __future__ import annotations

import gc
import logging
import time
import unicodedata
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
    """A checkpoint on the devices of a mesh, with its tokenizer. Threads may share it.

    Every shape of a batch is compiled once, at its first use.

    Attributes:
        config: The architecture.
        language: "es" or "en".
        mesh: The devices.
        compile_seconds: Time spent compiling so far.
    """

    def __init__(self, checkpoint: Checkpoint, mesh: Mesh):
        """Prepare the programs of a checkpoint whose parameters are on every device of the mesh."""
        self.config = checkpoint.config
        self.language = checkpoint.language
        self.mesh = mesh
        self.compile_seconds = 0.0
        self._tokenizer = None
        if self.config.text is not None:
            cache = cache_folder() / "tokenizers"
            self._tokenizer = load_cached_tokenizer(checkpoint.text_folder, self.config.text.max_tokens, cache)
        model, platform = checkpoint.model, mesh.devices.flat[0].platform
        self._audio: list[Step] = []
        self._text: list[Step] = []
        if model.audio_encoder is not None:
            self._audio = encoder_steps(model, "audio", EmotionModel.pool, platform)
        if model.text_encoder is not None:
            self._text = encoder_steps(model, "text", lambda _, states: states.last[:, 0], platform)
        graph, self._parameters = nnx.split(model)
        self._programs: dict[Any, Any] = {}
        self._classify = partial(_classify, graph)

    def clip(self, audio: AudioSource | Clip | None) -> Clip | None:
        """Decode a recording if the mode has audio, else return None. May be called from several threads.

        Raises:
            InvalidInput: The mode needs audio and there is none, or it can't be used.
            UnreadableInput: The recording is missing or broken.
        """
        if self.config.audio is None:
            return None
        if audio is None:
            raise InvalidInput(f"mode {self.config.mode!r} needs 'audio': a path, bytes or array and rate")
        return audio if isinstance(audio, Clip) else read_clip(audio)

    def tokens(self, text: object) -> Tokens | None:
        """Tokenize a text in composed letters (NFC) if the mode has text, else return None.

        Raises:
            InvalidInput: The mode needs text and there is none, or it is blank.
        """
        if self._tokenizer is None:
            return None
        if text is None:
            raise InvalidInput(f"mode {self.config.mode!r} needs 'text', the words that were said")
        return self._tokenizer(unicodedata.normalize("NFC", text) if isinstance(text, str) else text)

    def token_bucket(self, longest: int) -> int:
        """Return the padded length of a batch whose longest text has that many tokens. The mode must have text."""
        assert self.config.text is not None
        return min(bucket(longest, TOKEN_BUCKETS), self.config.text.max_tokens)

    def audio_vectors(self, clips: Sequence[Clip], frames: int) -> Float[Array, "batch width"]:
        """Compute the pooled audio vector of each clip.

        Args:
            clips: Clips that are all over 160 s long, or all shorter.
            frames: The bucket, in frames of 20 ms, to which all are padded.
        """
        features_and_mask = self._run("the features", _features, (), *self._put(pad_clips(clips, frames)))
        return self.encode_audio(*features_and_mask)

    def encode_audio(
        self, features: Float[Array, "batch frames features"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch width"]:
        """Compute the pooled audio vectors of features, given the mask of their real frames."""
        return self._encode(self._audio, features, mask)

    def text_vectors(self, tokens: Sequence[Tokens], length: int) -> Float[Array, "batch width"]:
        """Compute the pooled text vector of each text, all padded to the bucket `length`."""
        assert self.config.text is not None
        padded = pad_tokens([each.ids for each in tokens], length, self.config.text.pad_token_id)
        return self._encode(self._text, *self._put(padded))

    def probabilities(
        self,
        audio: Float[Array | np.ndarray, "batch audio_width"] | None,
        text: Float[Array | np.ndarray, "batch text_width"] | None,
    ) -> Float[Array, "batch labels"]:
        """Compute the probabilities of the labels from the pooled vectors that the mode uses; the other is None."""
        vectors = [None if each is None else self._put(each) for each in (audio, text)]
        return self._run("the head", self._classify, self._parameters, *vectors)

    def compile_audio(self, rows: int, frames: int, *, truncated: bool = False) -> None:
        """Compile what `audio_vectors` runs for a batch, without running it.

        The checkpoint may be an abstract one. May be called from several threads with different shapes.

        Args:
            rows: Number of clips.
            frames: The bucket, in frames of 20 ms.
            truncated: Whether the clips are over 160 s long.
        """
        waveforms, lengths = self._rows(rows, samples_for(frames)), self._rows(rows, dtype=np.int32)
        statistics = MelStatistics(*[self._rows(rows, MEL_BINS)] * 2) if truncated else None
        program = self._compiled("the features", _features, (), waveforms, lengths, statistics)
        self._compile(self._audio, *program.out_info)

    def compile_text(self, rows: int, length: int) -> None:
        """Compile what `text_vectors` runs for a batch of `rows` texts. See `compile_audio`."""
        ids, mask = self._rows(rows, length, dtype=np.int32), self._rows(rows, length, dtype=bool)
        self._compile(self._text, ids, mask)

    def compile_head(self, rows: int) -> None:
        """Compile what `probabilities` runs for a batch of `rows` rows. See `compile_audio`."""
        widths = (self.config.audio and self.config.projection_width, self.config.text and self.config.text.hidden_size)
        vectors = [None if width is None else self._rows(rows, width) for width in widths]
        self._compiled("the head", self._classify, self._parameters, *vectors)

    def check_open(self) -> None:
        """Raise RuntimeError if the scorer was closed."""
        if self._parameters is None:
            raise RuntimeError("this pipeline was closed; load it again with EmotionPipeline.from_pretrained")

    def close(self) -> None:
        """Free the parameters and the compiled programs."""
        self._parameters = None
        for references in (self._audio, self._text, self._programs):
            references.clear()
        gc.collect()  # Splitting a model leaves reference cycles that hold its arrays.

    @property
    def _divided(self) -> NamedSharding:
        """The sharding that divides the rows of a batch over the devices."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def _put(self, arrays: Any) -> Any:
        return jax.device_put(arrays, self._divided)

    def _rows(self, *shape: int, dtype: Any = np.float32) -> Any:
        """Return the jax.ShapeDtypeStruct of what `_put` makes of an array of that shape."""
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
        """Compile a program for a batch of these shapes, and store it for `_run`."""
        shapes = _shapes(batch)
        rows, length = [*shapes[0], 1][:2]
        logger.debug("compiling %s for %d x %d (%d shapes so far)", name, rows, length, len(self._programs) + 1)
        started = time.perf_counter()
        divided, replicated = self._divided.spec, PartitionSpec()
        per_device = jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(replicated, *[divided] * len(batch)),
            out_specs=divided,
            check_vma=False,
        )
        program = self._programs[name, shapes] = jax.jit(per_device).lower(parameters, *batch).compile()
        self.compile_seconds += time.perf_counter() - started
        return program


def default_batch_size(config: EmotionConfig, platform: str) -> int:
    """Return how many clips a device computes together by default: 8, or 1 where a CPU encodes audio.

    A single clip keeps a CPU's cores busy. More clips would only add padding, and shapes to compile.
    """
    return 1 if platform == "cpu" and config.audio is not None else 8


def _shapes(batch: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(each.shape for each in jax.tree.leaves(batch))


def _features(
    _: tuple[()], waveforms: jax.Array, lengths: jax.Array, statistics: MelStatistics | None
) -> tuple[jax.Array, jax.Array]:
    return features(waveforms, lengths, statistics=statistics)


def _classify(graph: nnx.GraphDef, parameters: Any, *vectors: jax.Array | None) -> jax.Array:
    """Compute probabilities. The partial function holds only the model's structure, not its arrays."""
    model = nnx.merge(graph, parameters)
    return model.probabilities(model.classify(*vectors))
