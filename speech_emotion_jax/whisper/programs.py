"""Whisper on one device or a mesh: windows of sound in, tokens out, all of it compiled, in batches.

Parameters are on every device, and the rows of a batch are divided among them by jit. A batch that is not full is
filled with copies of its first row: a row of silence could go on writing when all others have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ..audio import WINDOW_SAMPLES, whisper_log_mel
from ..models import CrossKV, Whisper
from .rules import TokenRules
from .search import Prompt, SearchResult, beam_search, greedy_search

PROMPT_LENGTHS = (1, 2, 3, 4, 32, 64, 128, 228)  # what prompts are padded to; the first ones need no padding
ALIGNED_LENGTHS = (32, 64, 128, 256)  # the same for transcripts that are aligned


class WhisperPrograms:
    """A Whisper with its compiled programs."""

    def __init__(self, model: Whisper, mesh: Mesh):
        self.config = model.config
        self.mesh = mesh
        model.decoder.unstack()
        self.graph, self.parameters = nnx.split(model)
        # The caches of a CPU hold the activations of one recording; accelerators want them all at once.
        one_by_one = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
        self._encode = _compiled(_encode, self.graph, one_by_one)
        self._detect = _compiled(_detect, self.graph, static=("start", "languages"))
        self._greedy = _compiled(_greedy, self.graph, static=("start", "rules", "limit"))
        self._beams = _compiled(_beams, self.graph, static=("start", "rules", "limit", "beams"))
        self._align = _compiled(_align, self.graph, static="heads")

    def rows(self, count: int) -> int:
        """The size of the batch in which `count` rows are computed: a power of two on each device."""
        return self.mesh.size * (1 << (-(-count // self.mesh.size) - 1).bit_length())

    def close(self) -> None:
        """Free the parameters and the compiled programs."""
        self.parameters = None
        for program in (self._encode, self._detect, self._greedy, self._beams, self._align):
            program.clear_cache()

    def features(self, waveforms: Sequence[Float[np.ndarray, " _samples"]]) -> Float[Array, "batch frames bins"]:
        """Log-mel of windows of at most 30 s, padded with silence."""
        padded = [np.pad(waveform, (0, WINDOW_SAMPLES - len(waveform))) for waveform in waveforms]
        return whisper_log_mel(self.place_rows(padded), bins=self.config.num_mel_bins)

    def place_rows(self, rows: Sequence[np.ndarray]) -> jax.Array:
        """Equal rows as a batch on the devices, filled up to `rows`."""
        return self._put(np.stack([*rows, *[rows[0]] * (self.rows(len(rows)) - len(rows))]).astype(np.float32))

    def encode(self, features: Float[Array, "batch frames bins"]) -> CrossKV:
        """Encode log-mel features, whose batch is `rows` of something."""
        return self._encode(self.parameters, features)

    def detect(self, cross_kv: CrossKV, start: int, languages: Sequence[int]) -> Float[np.ndarray, "batch languages"]:
        """How probably each of the languages' tokens follows `start`, which is <|startoftranscript|>."""
        return np.asarray(self._detect(self.parameters, cross_kv, start=start, languages=tuple(languages)))

    def select_rows(self, cross_kv: CrossKV, rows: Sequence[int]) -> CrossKV:
        """Some recordings of a batch, as a batch of their own."""
        filled = [*rows, *[rows[0]] * (self.rows(len(rows)) - len(rows))]
        return jax.tree.map(lambda x: x[np.array(filled)], cross_kv)

    def search(
        self,
        cross_kv: CrossKV,
        prompts: Sequence[Sequence[int]],
        *,
        start: int,
        rules: TokenRules,
        limit: int | None,
        beams: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> SearchResult:
        """Transcripts as numpy arrays, a row for each prompt.

        `start` is the number of tokens of a prompt from <|startoftranscript|> on, the same in all; `limit` the most
        tokens written, None for what the decoder has positions for. A `temperature` above 0 draws and uses no beams.
        """
        prompt = self._prompt(prompts)
        room = self.config.max_target_positions - prompt.tokens.shape[1]
        limit = room if limit is None else min(limit, room)
        if temperature > 0:
            found = self._greedy(
                self.parameters,
                cross_kv,
                prompt,
                jnp.float32(temperature),
                jax.random.key(seed),
                start=start,
                rules=rules,
                limit=limit,
            )
        elif beams == 1:
            found = self._greedy(self.parameters, cross_kv, prompt, None, None, start=start, rules=rules, limit=limit)
        else:
            found = self._beams(self.parameters, cross_kv, prompt, start=start, rules=rules, limit=limit, beams=beams)
        return SearchResult(*(np.asarray(each)[: len(prompts)] for each in found))

    def align(
        self, cross_kv: CrossKV, texts: Sequence[Sequence[int]], heads: tuple[tuple[int, int], ...]
    ) -> Float[np.ndarray, "batch heads tokens frames"]:
        """Attention of the alignment heads, given as (layer, head), while texts (prompts included) are written."""
        longest = max(map(len, texts))
        fits = [length for length in ALIGNED_LENGTHS if length >= longest]
        tokens = np.zeros((self.rows(len(texts)), min(fits, default=self.config.max_target_positions)), np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        return np.asarray(self._align(self.parameters, cross_kv, self._put(tokens), heads=heads))[: len(texts)]

    def _prompt(self, prompts: Sequence[Sequence[int]]) -> Prompt:
        longest = max(map(len, prompts))
        length = next(length for length in PROMPT_LENGTHS if length >= longest)
        rows = self.rows(len(prompts))
        tokens, padding = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
        for row in range(rows):
            prompt = prompts[row if row < len(prompts) else 0]
            padding[row] = length - len(prompt)
            tokens[row, padding[row] :] = prompt
        return Prompt(self._put(tokens), self._put(padding))

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec("data")))


def _compiled(function: Any, *bound: Any, static: Any = ()) -> Any:
    """`function` with its first arguments bound, compiled; it holds the model's structure and no parameters."""
    return jax.jit(partial(function, *bound), static_argnames=static)


def _encode(graph: Any, one_by_one: bool, parameters: Any, features: jax.Array) -> CrossKV:
    model: Whisper = nnx.merge(graph, parameters)
    if not one_by_one:
        return model.listen(model.encoder(features))
    cross_kv = jax.lax.map(lambda each: model.listen(model.encoder(each[None])), features)
    return jax.tree.map(lambda x: x[:, 0], cross_kv)


def _detect(graph: Any, parameters: Any, cross_kv: CrossKV, *, start: int, languages: tuple[int, ...]) -> jax.Array:
    decoder = nnx.merge(graph, parameters).decoder
    batch = cross_kv.keys[0].shape[0]
    tokens = jnp.full((batch, 1), start, jnp.int32)
    cache = decoder.empty_cache(batch, 1)
    states = decoder(tokens, 0, jnp.zeros(batch, jnp.int32), cache, cross_kv).states
    return jax.nn.softmax(decoder.logits(states[:, 0])[:, np.array(languages)])


def _greedy(
    graph: Any,
    parameters: Any,
    cross_kv: CrossKV,
    prompt: Prompt,
    temperature: jax.Array | None,
    key: jax.Array | None,
    *,
    start: int,
    rules: TokenRules,
    limit: int,
) -> SearchResult:
    model = nnx.merge(graph, parameters)
    return greedy_search(
        model, cross_kv, prompt, start=start, rules=rules, limit=limit, temperature=temperature, key=key
    )


def _beams(
    graph: Any,
    parameters: Any,
    cross_kv: CrossKV,
    prompt: Prompt,
    *,
    start: int,
    rules: TokenRules,
    limit: int,
    beams: int,
) -> SearchResult:
    return beam_search(
        nnx.merge(graph, parameters), cross_kv, prompt, start=start, rules=rules, limit=limit, beams=beams
    )


def _align(
    graph: Any, parameters: Any, cross_kv: CrossKV, tokens: jax.Array, *, heads: tuple[tuple[int, int], ...]
) -> jax.Array:
    decoder = nnx.merge(graph, parameters).decoder
    batch, length = tokens.shape
    cache = decoder.empty_cache(batch, length)
    padding = jnp.zeros(batch, jnp.int32)
    attention = decoder(tokens, 0, padding, cache, cross_kv).attention
    return jnp.stack([attention[layer][:, head] for layer, head in heads], axis=1)
