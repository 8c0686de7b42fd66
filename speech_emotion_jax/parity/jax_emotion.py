"""Our side of a parity check of an emotion checkpoint.

Every part starts from the original's input, so that a difference is its own: feature extraction from the original's
waveform, the audio encoder from its features and the text encoder from its tokens. Only the prediction starts from the
file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ..audio import (
    MAX_FBANK_FRAMES,
    SAMPLE_RATE,
    STACK_SIZE,
    AudioSource,
    feature_frames,
    features,
    load,
    pad_clips,
    read_clip,
)
from ..checkpoints import Checkpoint
from ..inference import FRAME_BUCKETS, TOKEN_BUCKETS, bucket, pad_tokens
from ..models import EmotionModel
from ..registry import FUSION_MODES
from ..text import TextTokenizer
from .layers_alone import run_layers_alone
from .products import change_products
from .stages import (
    FEATURES,
    FUSED,
    LOGITS,
    POOLED,
    PREDICTION,
    PROBABILITIES,
    TOKENS,
    WAVEFORM,
    StageArray,
    Stages,
    layer,
    layers,
)


class JaxEmotion:
    """A loaded emotion checkpoint that returns its intermediate stages."""

    def __init__(self, checkpoint: Checkpoint, products: str | None = None):
        """Prepare a checkpoint.

        Args:
            checkpoint: the loaded checkpoint.
            products: another setting for float32 products, see `products.change_products`. None for the model's own.
        """
        self.config = checkpoint.config
        self._tokenizer = None
        if self.config.text is not None:
            self._tokenizer = TextTokenizer(checkpoint.text_folder, self.config.text.max_tokens)
        self._model = nnx.split(checkpoint.model)
        self._products = products

    def read_inputs(self, audio: AudioSource | None, text: str | None) -> dict[str, StageArray]:
        """Read the inputs of the networks from a recording and a text.

        Args:
            audio: the recording. Not used in mode text.
            text: the text. Not used in mode audio.

        Returns:
            The stages waveform, features and tokens, as far as the mode uses them.

        Raises:
            InvalidInput: if the recording or the text cannot be used.
            UnreadableInput: if the recording cannot be read.
        """
        inputs: dict[str, StageArray] = {}
        if self.config.audio is not None and audio is not None:
            inputs |= {WAVEFORM: load(audio), FEATURES: self._features(audio)}
        if self._tokenizer is not None:
            inputs[TOKENS] = np.asarray(self._tokenizer(text).ids, np.int32)
        return inputs

    def compute_stages(self, theirs: Stages, audio: AudioSource | None, text: str | None) -> dict[str, StageArray]:
        """Compute all stages, each network from the original's input.

        Args:
            theirs: the original's stages.
            audio: the recording. Not used in mode text.
            text: the text. Not used in mode audio.

        Returns:
            Our stages. The last one, the prediction, is computed from `audio` and `text` alone.

        Raises:
            InvalidInput: if the recording or the text cannot be used.
            UnreadableInput: if the recording cannot be read.
        """
        inputs = self.read_inputs(audio, text)
        stages = dict(inputs)
        if FEATURES in inputs:
            stages[FEATURES] = self._features({"array": theirs[WAVEFORM], "sampling_rate": SAMPLE_RATE})
        stages |= self.run_networks(theirs)
        stages[PREDICTION] = self.run_networks(inputs)[PROBABILITIES]
        return stages

    def run_networks(self, inputs: Stages) -> dict[str, StageArray]:
        """Compute every layer, the fused vector, the logits and the probabilities from features and tokens."""
        stages: dict[str, StageArray] = {}
        audio_vector = text_vector = None
        if self.config.audio is not None:
            stages |= self._run_audio_encoder(inputs[FEATURES])
            audio_vector = stages[POOLED]
        if self.config.text is not None:
            stages |= (text_stages := self._run_text_encoder(inputs[TOKENS]))
            text_vector = text_stages[next(reversed(text_stages))][0]
        return stages | self._run_head(audio_vector, text_vector)

    def compute_stages_alone(self, theirs: Stages) -> dict[str, StageArray]:
        """Compute each stage of the networks from the original's previous stage."""
        stages: dict[str, StageArray] = {}
        audio_vector = text_vector = None
        if self.config.audio is not None:
            names = layers(theirs, "audio")
            before = np.stack([theirs[name] for name in names])
            padded, mask = _pad_features(theirs[FEATURES])
            frames = before.shape[1]
            states = np.pad(before, ((0, 0), (0, padded.shape[1] - frames), (0, 0)))
            projection, after, pooled = self._run(_run_audio_layers_alone, padded, states, mask)
            stages[names[0]] = np.asarray(projection)[0, :frames]
            stages |= dict(zip(names[1:], np.asarray(after)[:, :frames], strict=True))
            stages[POOLED] = np.asarray(pooled)[0]
            audio_vector = theirs[POOLED]
        if self.config.text is not None:
            names = layers(theirs, "text")
            before = np.stack([theirs[name] for name in names])
            ids, mask = self._pad_tokens(theirs[TOKENS])
            tokens = before.shape[1]
            states = np.pad(before, ((0, 0), (0, ids.shape[1] - tokens), (0, 0)))
            embeddings, after = self._run(_run_text_layers_alone, ids, states, mask)
            stages[names[0]] = np.asarray(embeddings)[0, :tokens]
            stages |= dict(zip(names[1:], np.asarray(after)[:, :tokens], strict=True))
            text_vector = theirs[names[-1]][0]
        head = self._run_head(audio_vector, text_vector)
        if FUSED in head:
            stages[FUSED] = head[FUSED]
            stages[LOGITS] = np.asarray(self._run(_classify, theirs[FUSED][None]))[0]
        else:
            stages[LOGITS] = head[LOGITS]
        stages[PROBABILITIES] = np.asarray(self._run(_compute_probabilities, theirs[LOGITS][None]))[0]
        return stages

    def _run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Compile a function of the model and of arrays, and call it."""
        graph, parameters = self._model
        return _run_compiled(function, graph, self._products, parameters, *arrays)

    def _features(self, audio: AudioSource) -> Float[np.ndarray, "frames 160"]:
        """Compute the features of a recording, without masked frames."""
        clip = read_clip(audio)
        frames = bucket(feature_frames(len(clip.waveform)), FRAME_BUCKETS)
        waveforms, lengths, statistics = pad_clips([clip], frames)
        x, mask = features(waveforms, lengths, statistics=statistics)
        return np.asarray(x)[np.asarray(mask)]

    def _run_audio_encoder(self, real: Float[np.ndarray, "frames 160"]) -> dict[str, StageArray]:
        states, pooled = self._run(_encode_audio, *_pad_features(real))
        stages = {layer("audio", index): each[: len(real)] for index, each in enumerate(np.asarray(states))}
        return stages | {POOLED: np.asarray(pooled)[0]}

    def _pad_tokens(self, ids: Int[np.ndarray, " tokens"]) -> tuple[jax.Array, jax.Array]:
        assert self.config.text is not None
        length = min(bucket(len(ids), TOKEN_BUCKETS), self.config.text.max_tokens)
        padded, mask = pad_tokens([ids.tolist()], length, self.config.text.pad_token_id)
        return jnp.asarray(padded), jnp.asarray(mask)

    def _run_text_encoder(self, ids: Int[np.ndarray, " tokens"]) -> dict[str, StageArray]:
        states = np.asarray(self._run(_encode_text, *self._pad_tokens(ids)))
        return {layer("text", index): each[: len(ids)] for index, each in enumerate(states)}

    def _run_head(
        self, audio: Float[np.ndarray, " audio_width"] | None, text: Float[np.ndarray, " text_width"] | None
    ) -> dict[str, StageArray]:
        vectors = [None if each is None else jnp.asarray(each)[None] for each in (audio, text)]
        fused, logits, probabilities = (np.asarray(each)[0] for each in self._run(_fuse_and_classify, *vectors))
        stages = {FUSED: fused} if self.config.mode in FUSION_MODES else {}
        return stages | {LOGITS: logits, PROBABILITIES: probabilities}


def _pad_features(real: Float[np.ndarray, "frames 160"]) -> tuple[jax.Array, jax.Array]:
    """Pad one clip's features to the length of their bucket. Return a batch of one and its mask."""
    length = bucket(min(len(real), MAX_FBANK_FRAMES // STACK_SIZE), FRAME_BUCKETS)
    padded = np.pad(real, ((0, length - len(real)), (0, 0)))
    return jnp.asarray(padded)[None], jnp.arange(length)[None] < len(real)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run_compiled(
    function: Callable[..., Any], graph: nnx.GraphDef, products: str | None, parameters: Any, *arrays: Any
) -> Any:
    def of_model(parameters: Any, *arrays: Any) -> Any:
        return function(nnx.merge(graph, parameters), *arrays)

    return (of_model if products is None else change_products(of_model, products))(parameters, *arrays)


def _encode_audio(
    model: EmotionModel, x: Float[Array, "1 frames 160"], mask: Bool[Array, "1 frames"]
) -> tuple[Float[Array, "states frames width"], Float[Array, "1 projection"]]:
    assert model.audio_encoder is not None
    states = model.audio_encoder(x, mask, hidden_states=True)
    assert states.hidden_states is not None
    return states.hidden_states[:, 0], model.pool(states)


def _encode_text(
    model: EmotionModel, ids: Int[Array, "1 tokens"], mask: Bool[Array, "1 tokens"]
) -> Float[Array, "states tokens width"]:
    encoder = model.text_encoder
    assert encoder is not None
    states = encoder(ids, mask, hidden_states=True).hidden_states
    assert states is not None
    return states[:, 0]


def _run_audio_layers_alone(
    model: EmotionModel,
    x: Float[Array, "1 frames 160"],
    states: Float[Array, "states frames width"],
    mask: Bool[Array, "1 frames"],
) -> tuple[Float[Array, "1 frames width"], Float[Array, "layers frames width"], Float[Array, "1 projection"]]:
    """Return the projection of `x`, each layer's output for the state before it, and the pooled last state."""
    encoder = model.audio_encoder
    assert encoder is not None
    projected = encoder(x, mask, hidden_states=True).hidden_states
    assert projected is not None
    last = encoder.finalize(states[-1:], mask, states[:, None])
    return projected[0], run_layers_alone(encoder.layers, lambda own, x: own(x, mask), states), model.pool(last)


def _run_text_layers_alone(
    model: EmotionModel,
    ids: Int[Array, "1 tokens"],
    states: Float[Array, "states tokens width"],
    mask: Bool[Array, "1 tokens"],
) -> tuple[Float[Array, "1 tokens width"], Float[Array, "layers tokens width"]]:
    encoder = model.text_encoder
    assert encoder is not None
    return encoder.embeddings(ids), run_layers_alone(encoder.layers, lambda own, x: own(x, mask), states)


def _fuse_and_classify(
    model: EmotionModel,
    audio: Float[Array, "1 audio_width"] | None,
    text: Float[Array, "1 text_width"] | None,
) -> tuple[Float[Array, "1 head_width"], Float[Array, "1 labels"], Float[Array, "1 labels"]]:
    fused = model.fuse(audio, text)
    logits = model.classifier(fused)
    return fused, logits, model.probabilities(logits)


def _classify(model: EmotionModel, fused: Float[Array, "1 head_width"]) -> Float[Array, "1 labels"]:
    return model.classifier(fused)


def _compute_probabilities(model: EmotionModel, logits: Float[Array, "1 labels"]) -> Float[Array, "1 labels"]:
    return model.probabilities(logits)
