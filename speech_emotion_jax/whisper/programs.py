"""Compiled programs that run Whisper on batches of windows, on one device or a mesh.

Every device holds all parameters, and jit divides the rows of a batch among the devices. A batch that is not full is
filled with copies of its first row. A row of silence might go on writing after all others have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ..audio import WINDOW_SAMPLES, whisper_log_mel
from ..models import CrossKV, Whisper
from .rules import TokenRules
from .search import Prompt, Sampling, SearchResult, beam_search, greedy_search

PROMPT_LENGTHS = (1, 2, 3, 4, 32, 64, 128, 228)  # lengths to which prompts are padded; up to 4 without earlier text
ALIGNED_LENGTHS = (32, 64, 128, 256)  # lengths to which texts are padded for the alignment


class DetectionResult(NamedTuple):
    """What the first step of the decoder tells of windows.

    Attributes:
        languages: Probability of each language, normalised over the languages.
        no_speech: Probability of <|nospeech|>.
    """

    languages: Float[np.ndarray, "batch languages"]
    no_speech: Float[np.ndarray, " batch"]


class WhisperPrograms:
    """The parameters of a Whisper and its compiled programs.

    Attributes:
        config: The model's configuration.
        mesh: The devices, with the single axis "data".
        graph: The model's structure (the graph definition of `nnx.split`).
        parameters: The model's parameters, replicated over the mesh.
    """

    def __init__(self, model: Whisper, mesh: Mesh):
        """Split a model into structure and parameters. Programs are compiled at their first call.

        Args:
            model: The model, whose parameters are replicated over the mesh. Its decoder layers are unstacked in place.
            mesh: The devices over which batches are divided.
        """
        self.config = model.config
        self.mesh = mesh
        model.decoder.unstack()
        self.graph, self.parameters = nnx.split(model)
        # The activations of one window fit a CPU's caches, those of a batch do not. Accelerators need whole batches.
        one_by_one = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
        self._encode = _compiled(_encode, self.graph, one_by_one)
        self._detect = _compiled(_detect, self.graph, static=("start", "languages", "no_speech"))
        self._greedy = _compiled(_greedy, self.graph, static=("start", "rules", "limit"))
        self._beams = _compiled(_beams, self.graph, static=("start", "rules", "limit", "beams"))
        self._align = _compiled(_align, self.graph, static="heads")

    def rows(self, count: int) -> int:
        """Return the batch size for `count` rows: a power of two on each device."""
        return self.mesh.size * (1 << (-(-count // self.mesh.size) - 1).bit_length())

    def close(self) -> None:
        """Free the parameters and the compiled programs. No other method can be called afterwards."""
        self.parameters = None
        for program in (self._encode, self._detect, self._greedy, self._beams, self._align):
            program.clear_cache()

    def features(self, waveforms: Sequence[Float[np.ndarray, " _samples"]]) -> Float[Array, "batch frames bins"]:
        """Compute the log-mel energies of windows.

        Args:
            waveforms: Mono samples at 16 kHz, float32, at most 480,000 (30 s) each.

        Returns:
            Energies of shape (batch, 3000, bins), float32, on the devices. The batch is filled up to `rows`.
        """
        padded = [np.pad(waveform, (0, WINDOW_SAMPLES - len(waveform))) for waveform in waveforms]
        return whisper_log_mel(self.place_rows(padded), bins=self.config.num_mel_bins)

    def place_rows(self, rows: Sequence[np.ndarray]) -> jax.Array:
        """Put rows on the devices.

        Args:
            rows: Arrays of one shape.

        Returns:
            The rows as one float32 array, filled up to `rows`.
        """
        return self._put(np.stack([*rows, *[rows[0]] * (self.rows(len(rows)) - len(rows))]).astype(np.float32))

    def encode(self, features: Float[Array, "batch frames bins"]) -> CrossKV:
        """Encode log-mel energies.

        Args:
            features: Energies as `features` returns them.

        Returns:
            Keys and values of the decoder's cross-attention.
        """
        return self._encode(self.parameters, features)

    def detect(self, cross_kv: CrossKV, start: int, languages: Sequence[int], no_speech: int) -> DetectionResult:
        """Compute the probability of each language, and that of no speech.

        Args:
            cross_kv: Keys and values of the windows.
            start: Id of <|startoftranscript|>.
            languages: Ids of the languages' tokens.
            no_speech: Id of <|nospeech|>.

        Returns:
            Probabilities of the tokens after `start`. Rows that fill the batch are included.
        """
        result = self._detect(self.parameters, cross_kv, start=start, languages=tuple(languages), no_speech=no_speech)
        return DetectionResult(*map(np.asarray, result))

    def select_rows(self, cross_kv: CrossKV, rows: Sequence[int]) -> CrossKV:
        """Select windows of a batch.

        Args:
            cross_kv: Keys and values of the windows.
            rows: Numbers of the windows to keep.

        Returns:
            The keys and values of these windows, filled up to `rows`.
        """
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
        """Decode the tokens of each window.

        Args:
            cross_kv: Keys and values of the windows.
            prompts: Prompt of each window.
            start: Number of prompt tokens from <|startoftranscript|> on, the same in all prompts.
            rules: Which tokens may follow.
            limit: Tokens to write at most. None writes as many as the decoder has positions for.
            beams: Hypotheses; 1 is greedy search.
            temperature: 0 takes the most likely tokens. Above 0 tokens are drawn, and `beams` is ignored.
            seed: Seed of the draws.

        Returns:
            NumPy arrays with one row per prompt.
        """
        prompt = self._prompt(prompts)
        positions = self.config.max_target_positions - prompt.tokens.shape[1]
        limit = positions if limit is None else min(limit, positions)
        if beams == 1 or temperature > 0:
            sampling = Sampling(jnp.float32(temperature), jax.random.key(seed)) if temperature > 0 else None
            result = self._greedy(self.parameters, cross_kv, prompt, sampling, start=start, rules=rules, limit=limit)
        else:
            result = self._beams(self.parameters, cross_kv, prompt, start=start, rules=rules, limit=limit, beams=beams)
        return SearchResult(*(np.asarray(each)[: len(prompts)] for each in result))

    def align(
        self, cross_kv: CrossKV, texts: Sequence[Sequence[int]], heads: tuple[tuple[int, int], ...]
    ) -> Float[np.ndarray, "batch heads tokens frames"]:
        """Run the decoder on texts and return the attention of the alignment heads.

        Args:
            cross_kv: Keys and values of the windows.
            texts: Tokens of each window, prompt included.
            heads: Pairs of layer and head.

        Returns:
            Attention weights with one row per text, float32. Tokens are padded to a common length.
        """
        longest = max(map(len, texts))
        fits = [length for length in ALIGNED_LENGTHS if length >= longest]
        tokens = np.zeros((self.rows(len(texts)), min(fits, default=self.config.max_target_positions)), np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        return np.asarray(self._align(self.parameters, cross_kv, self._put(tokens), heads=heads))[: len(texts)]

    def _prompt(self, prompts: Sequence[Sequence[int]]) -> Prompt:
        """Pad prompts to a batch."""
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
    """Compile a function with its first arguments bound. The program holds the model's structure and no parameters."""
    return jax.jit(partial(function, *bound), static_argnames=static)


def _encode(graph: Any, one_by_one: bool, parameters: Any, features: jax.Array) -> CrossKV:
    """Encode a batch, on a CPU window by window."""
    model: Whisper = nnx.merge(graph, parameters)
    if not one_by_one:
        return model.cross_kv(model.encoder(features))
    cross_kv = jax.lax.map(lambda each: model.cross_kv(model.encoder(each[None])), features)
    return jax.tree.map(lambda x: x[:, 0], cross_kv)


def _detect(
    graph: Any, parameters: Any, cross_kv: CrossKV, *, start: int, languages: tuple[int, ...], no_speech: int
) -> tuple[jax.Array, jax.Array]:
    decoder = nnx.merge(graph, parameters).decoder
    batch = cross_kv.keys[0].shape[0]
    tokens = jnp.full((batch, 1), start, jnp.int32)
    cache = decoder.empty_cache(batch, 1)
    states = decoder(tokens, 0, jnp.zeros(batch, jnp.int32), cache, cross_kv).states
    logits = decoder.logits(states[:, 0])
    return jax.nn.softmax(logits[:, np.array(languages)]), jax.nn.softmax(logits)[:, no_speech]


def _greedy(
    graph: Any,
    parameters: Any,
    cross_kv: CrossKV,
    prompt: Prompt,
    sampling: Sampling | None,
    *,
    start: int,
    rules: TokenRules,
    limit: int,
) -> SearchResult:
    model = nnx.merge(graph, parameters)
    return greedy_search(model, cross_kv, prompt, start=start, rules=rules, limit=limit, sampling=sampling)


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
