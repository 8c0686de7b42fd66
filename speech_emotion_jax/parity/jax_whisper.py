"""Our side of a parity check of a Whisper checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ..audio import WINDOW_SAMPLES, AudioSource, load
from ..models import Whisper, scan_layers
from ..whisper import WhisperPipeline
from .layers_alone import run_layers_alone
from .stages import ENCODED, LOG_MEL, WAVEFORM, WORD_LOGITS, WORDS, StageArray, Stages, layer, layers

Found = dict[str, StageArray]


class JaxWhisper:
    """A loaded Whisper that tells what it computes on the way."""

    def __init__(self, pipeline: WhisperPipeline, language: str):
        self._pipeline = pipeline
        self._language = language
        programs = pipeline.programs
        self._graph, self._parameters = programs.graph, programs.parameters

    def compute_stages(self, theirs: Stages, audio: AudioSource | None, text: str | None = None) -> Found:
        """What ours makes of the original's waveform, log-mel and words; the words of what our encoder heard."""
        assert audio is not None, "Whisper hears"
        found: Found = {WAVEFORM: load(audio)[:WINDOW_SAMPLES]}
        programs = self._pipeline.programs
        found[LOG_MEL] = np.asarray(programs.features([theirs[WAVEFORM]]))[0]
        features = programs.place_rows([theirs[LOG_MEL]])
        states, encoded, logits = _hear(self._graph, self._parameters, features, jnp.asarray(theirs[WORDS])[None])
        found |= {layer("encoder", index): each for index, each in enumerate(np.asarray(states))}
        found |= {ENCODED: np.asarray(encoded), WORD_LOGITS: np.asarray(logits)}
        return found | {WORDS: self._words(features)}

    def compute_stages_alone(self, theirs: Stages) -> Found:
        """Each layer of the encoder by itself, from the original's state before it."""
        names = layers(theirs, "encoder")
        before = np.stack([theirs[name] for name in names])
        log_mel = jnp.asarray(theirs[LOG_MEL])[None]
        given, after, encoded = _alone(self._graph, self._parameters, log_mel, before)
        found = {names[0]: np.asarray(given)} | dict(zip(names[1:], np.asarray(after), strict=True))
        return found | {ENCODED: np.asarray(encoded)}

    def _words(self, features: Float[Array, "batch frames bins"]) -> Int[np.ndarray, " tokens"]:
        """The prompt and what is written greedily."""
        programs, vocabulary = self._pipeline.programs, self._pipeline.vocabulary
        prompt = vocabulary.prompt(vocabulary.language_code(self._language), "transcribe", timestamps=False)
        rules = vocabulary.rules(timestamps=False)
        heard = programs.encode(features)
        written = programs.search(heard, [prompt], start=len(prompt), rules=rules, limit=None)
        return np.array([*prompt, *written.tokens[0][: written.lengths[0]]], np.int64)


@partial(jax.jit, static_argnums=0)
def _hear(
    graph: nnx.GraphDef, parameters: Any, log_mel: Float[Array, "batch frames bins"], words: Int[Array, "1 tokens"]
) -> tuple[Float[Array, "states time width"], Float[Array, "time width"], Float[Array, "tokens vocabulary"]]:
    """The encoder's states, what it puts out, and the logits of the word after each."""
    model: Whisper = nnx.merge(graph, parameters)
    last, states = scan_layers(
        model.encoder.layers, lambda each, x, _: each(x), model.encoder.embed(log_mel[:1]), hidden_states=True
    )
    assert states is not None
    encoded = model.encoder.layer_norm(last)
    cache = model.decoder.empty_cache(1, words.shape[1])
    decoded = model.decoder(words.astype(jnp.int32), 0, jnp.zeros(1, jnp.int32), cache, model.listen(encoded))
    return states[:, 0], encoded[0], model.decoder.logits(decoded.states)[0]


@partial(jax.jit, static_argnums=0)
def _alone(
    graph: nnx.GraphDef,
    parameters: Any,
    log_mel: Float[Array, "1 frames bins"],
    states: Float[Array, "states time width"],
) -> tuple[Float[Array, "time width"], Float[Array, "layers time width"], Float[Array, "time width"]]:
    encoder = nnx.merge(graph, parameters).encoder
    after = run_layers_alone(encoder.layers, lambda own, x: own(x), states)
    return encoder.embed(log_mel)[0], after, encoder.layer_norm(states[-1:])[0]
