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


class JaxWhisper:
    """A loaded Whisper checkpoint that returns its intermediate stages."""

    def __init__(self, pipeline: WhisperPipeline, language: str):
        """Prepare a checkpoint.

        Args:
            pipeline: the loaded checkpoint.
            language: the language of the recordings: its code or its name.
        """
        self._pipeline = pipeline
        self._language = language
        programs = pipeline.programs
        self._graph, self._parameters = programs.graph, programs.parameters

    def compute_stages(
        self, theirs: Stages, audio: AudioSource | None, text: str | None = None
    ) -> dict[str, StageArray]:
        """Compute all stages of the first 30 s of a recording.

        The log-mel starts from the original's waveform, the encoder from its log-mel, and the logits from its words.
        The stage "words" is decoded from our encoder's output.

        Args:
            theirs: the original's stages.
            audio: the recording.
            text: ignored, because Whisper takes no text.

        Raises:
            InvalidInput: if the recording cannot be used.
            UnreadableInput: if the recording cannot be read.
        """
        assert audio is not None, "Whisper needs a recording"
        stages: dict[str, StageArray] = {WAVEFORM: load(audio)[:WINDOW_SAMPLES]}
        programs = self._pipeline.programs
        stages[LOG_MEL] = np.asarray(programs.features([theirs[WAVEFORM]]))[0]
        features = programs.place_rows([theirs[LOG_MEL]])
        states, encoded, logits = _run_model(self._graph, self._parameters, features, jnp.asarray(theirs[WORDS])[None])
        stages |= {layer("encoder", index): each for index, each in enumerate(np.asarray(states))}
        stages |= {ENCODED: np.asarray(encoded), WORD_LOGITS: np.asarray(logits)}
        return stages | {WORDS: self._decode_words(features)}

    def compute_stages_alone(self, theirs: Stages) -> dict[str, StageArray]:
        """Compute each layer of the encoder from the original's previous state."""
        names = layers(theirs, "encoder")
        before = np.stack([theirs[name] for name in names])
        log_mel = jnp.asarray(theirs[LOG_MEL])[None]
        embedded, after, encoded = _run_layers_alone(self._graph, self._parameters, log_mel, before)
        stages = {names[0]: np.asarray(embedded)} | dict(zip(names[1:], np.asarray(after), strict=True))
        return stages | {ENCODED: np.asarray(encoded)}

    def _decode_words(self, features: Float[Array, "batch frames bins"]) -> Int[np.ndarray, " tokens"]:
        """Return the prompt and the greedily decoded tokens, without the end token."""
        programs, vocabulary = self._pipeline.programs, self._pipeline.vocabulary
        prompt = vocabulary.prompt(vocabulary.language_code(self._language), "transcribe", timestamps=False)
        rules = vocabulary.rules(timestamps=False)
        audio_states = programs.encode(features)
        decoded = programs.search(audio_states, [prompt], start=len(prompt), rules=rules, limit=None)
        return np.array([*prompt, *decoded.tokens[0][: decoded.lengths[0]]], np.int64)


@partial(jax.jit, static_argnums=0)
def _run_model(
    graph: nnx.GraphDef, parameters: Any, log_mel: Float[Array, "batch frames bins"], words: Int[Array, "1 tokens"]
) -> tuple[Float[Array, "states time width"], Float[Array, "time width"], Float[Array, "tokens vocabulary"]]:
    """Return the encoder's states, its output, and the logits of the token after each of the words."""
    model: Whisper = nnx.merge(graph, parameters)
    last, states = scan_layers(
        model.encoder.layers, lambda each, x, _: each(x), model.encoder.embed(log_mel[:1]), hidden_states=True
    )
    assert states is not None
    encoded = model.encoder.layer_norm(last)
    cache = model.decoder.empty_cache(1, words.shape[1])
    decoded = model.decoder(words.astype(jnp.int32), 0, jnp.zeros(1, jnp.int32), cache, model.cross_kv(encoded))
    return states[:, 0], encoded[0], model.decoder.logits(decoded.states)[0]


@partial(jax.jit, static_argnums=0)
def _run_layers_alone(
    graph: nnx.GraphDef,
    parameters: Any,
    log_mel: Float[Array, "1 frames bins"],
    states: Float[Array, "states time width"],
) -> tuple[Float[Array, "time width"], Float[Array, "layers time width"], Float[Array, "time width"]]:
    encoder = nnx.merge(graph, parameters).encoder
    after = run_layers_alone(encoder.layers, lambda own, x: own(x), states)
    return encoder.embed(log_mel)[0], after, encoder.layer_norm(states[-1:])[0]
