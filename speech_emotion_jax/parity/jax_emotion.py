"""Our side of a parity check of an emotion checkpoint: the stages of a recording, from what the original made of it.

Each network is given the original's input, so that a difference is its own: the features the original's waveform, the
audio encoder the original's features, the text encoder the original's tokens. The prediction alone starts from the
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

Found = dict[str, StageArray]


class JaxEmotion:
    """A loaded emotion checkpoint that tells what it computes on the way.

    `products` is another way to multiply float32, see `products.change_products`; None: as the model is written.
    """

    def __init__(self, checkpoint: Checkpoint, products: str | None = None):
        self.config = checkpoint.config
        self._padding_value = checkpoint.padding_value if self.config.audio else 0.0
        self._tokenizer = None
        if self.config.text is not None:
            self._tokenizer = TextTokenizer(checkpoint.text_folder, self.config.text.max_tokens)
        self._model = nnx.split(checkpoint.model)
        self._products = products

    def read_inputs(self, audio: AudioSource | None, text: str | None) -> Found:
        """What the networks start from, as ours reads it: waveform and features, tokens.

        Raises InvalidInput and UnreadableInput for a recording or text that can't be used.
        """
        found: Found = {}
        if self.config.audio is not None and audio is not None:
            found |= {WAVEFORM: load(audio), FEATURES: self._features(audio)}
        if self._tokenizer is not None:
            found[TOKENS] = self._tokens_of(text)
        return found

    def compute_stages(self, theirs: Stages, audio: AudioSource | None, text: str | None) -> Found:
        """What ours makes of the original's waveform, features and tokens, and, at last, of the file and text alone.

        Raises InvalidInput and UnreadableInput for a recording or text that can't be used.
        """
        own = self.read_inputs(audio, text)
        found = dict(own)
        if FEATURES in own:
            found[FEATURES] = self._features({"array": theirs[WAVEFORM], "sampling_rate": SAMPLE_RATE})
        found |= self.run_networks(theirs)
        found[PREDICTION] = self.run_networks(own)[PROBABILITIES]
        return found

    def run_networks(self, given: Stages) -> Found:
        """What the networks make of features and tokens: each layer, and all that follows."""
        found: Found = {}
        vector = words = None
        if self.config.audio is not None:
            found |= (heard := self._heard(given[FEATURES]))
            vector = heard[POOLED]
        if self.config.text is not None:
            found |= (read := self._read(given[TOKENS]))
            words = read[next(reversed(read))][0]
        return found | self._judged(vector, words)

    def compute_stages_alone(self, theirs: Stages) -> Found:
        """Each stage of the networks by itself: what ours makes of the original's stage before it."""
        found: Found = {}
        vector = words = None
        if self.config.audio is not None:
            names = layers(theirs, "audio")
            before = np.stack([theirs[name] for name in names])
            padded, mask = _padded(theirs[FEATURES])
            frames = before.shape[1]
            states = np.pad(before, ((0, 0), (0, padded.shape[1] - frames), (0, 0)))
            projection, after, pooled = self._run(_audio_alone, padded, states, mask)
            found[names[0]] = np.asarray(projection)[0, :frames]
            found |= dict(zip(names[1:], np.asarray(after)[:, :frames], strict=True))
            found[POOLED] = np.asarray(pooled)[0]
            vector = theirs[POOLED]
        if self.config.text is not None:
            names = layers(theirs, "text")
            before = np.stack([theirs[name] for name in names])
            ids, mask = self._tokens(theirs[TOKENS])
            tokens = before.shape[1]
            states = np.pad(before, ((0, 0), (0, ids.shape[1] - tokens), (0, 0)))
            embeddings, after = self._run(_text_alone, ids, states, mask)
            found[names[0]] = np.asarray(embeddings)[0, :tokens]
            found |= dict(zip(names[1:], np.asarray(after)[:, :tokens], strict=True))
            words = theirs[names[-1]][0]
        judged = self._judged(vector, words)
        if FUSED in judged:
            found[FUSED] = judged[FUSED]
            found[LOGITS] = np.asarray(self._run(_head, theirs[FUSED][None]))[0]
        else:
            found[LOGITS] = judged[LOGITS]
        found[PROBABILITIES] = np.asarray(self._run(_probabilities, theirs[LOGITS][None]))[0]
        return found

    def _run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """A function of the model and of arrays, compiled."""
        graph, parameters = self._model
        return _compiled(function, graph, self._products, parameters, *arrays)

    def _features(self, audio: AudioSource) -> Float[np.ndarray, "frames 160"]:
        """Of a recording, without the frames that the mask leaves out."""
        clip = read_clip(audio)
        frames = bucket(feature_frames(len(clip.waveform)), FRAME_BUCKETS)
        waveforms, lengths, statistics = pad_clips([clip], frames)
        x, mask = features(waveforms, lengths, padding_value=self._padding_value, statistics=statistics)
        return np.asarray(x)[np.asarray(mask)]

    def _heard(self, real: Float[np.ndarray, "frames 160"]) -> Found:
        states, pooled = self._run(_audio, *_padded(real))
        found = {layer("audio", index): each[: len(real)] for index, each in enumerate(np.asarray(states))}
        return found | {POOLED: np.asarray(pooled)[0]}

    def _tokens_of(self, text: str | None) -> Int[np.ndarray, " tokens"]:
        assert self._tokenizer is not None
        return np.asarray(self._tokenizer(text).ids, np.int32)

    def _tokens(self, ids: Int[np.ndarray, " tokens"]) -> tuple[jax.Array, jax.Array]:
        assert self.config.text is not None
        length = min(bucket(len(ids), TOKEN_BUCKETS), self.config.text.max_tokens)
        padded, mask = pad_tokens([ids.tolist()], length, self.config.text.pad_token_id)
        return jnp.asarray(padded), jnp.asarray(mask)

    def _read(self, ids: Int[np.ndarray, " tokens"]) -> Found:
        states = np.asarray(self._run(_text, *self._tokens(ids)))
        return {layer("text", index): each[: len(ids)] for index, each in enumerate(states)}

    def _judged(
        self, audio: Float[np.ndarray, " audio_width"] | None, text: Float[np.ndarray, " text_width"] | None
    ) -> Found:
        vectors = [None if each is None else jnp.asarray(each)[None] for each in (audio, text)]
        fused, logits, probabilities = (np.asarray(each)[0] for each in self._run(_judge, *vectors))
        found = {FUSED: fused} if self.config.mode in FUSION_MODES else {}
        return found | {LOGITS: logits, PROBABILITIES: probabilities}


def _padded(real: Float[np.ndarray, "frames 160"]) -> tuple[jax.Array, jax.Array]:
    """A clip's features in a batch of one of its bucket's length, and the mask."""
    length = bucket(min(len(real), MAX_FBANK_FRAMES // STACK_SIZE), FRAME_BUCKETS)
    padded = np.pad(real, ((0, length - len(real)), (0, 0)))
    return jnp.asarray(padded)[None], jnp.arange(length)[None] < len(real)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    function: Callable[..., Any], graph: nnx.GraphDef, products: str | None, parameters: Any, *arrays: Any
) -> Any:
    def of_model(parameters: Any, *arrays: Any) -> Any:
        return function(nnx.merge(graph, parameters), *arrays)

    return (of_model if products is None else change_products(of_model, products))(parameters, *arrays)


def _audio(
    model: EmotionModel, x: Float[Array, "1 frames 160"], mask: Bool[Array, "1 frames"]
) -> tuple[Float[Array, "states frames width"], Float[Array, "1 projection"]]:
    assert model.audio_encoder is not None
    states = model.audio_encoder(x, mask, hidden_states=True)
    assert states.hidden_states is not None
    return states.hidden_states[:, 0], model.pool(states)


def _text(
    model: EmotionModel, ids: Int[Array, "1 tokens"], mask: Bool[Array, "1 tokens"]
) -> Float[Array, "states tokens width"]:
    encoder = model.text_encoder
    assert encoder is not None
    states = encoder(ids, mask, hidden_states=True).hidden_states
    assert states is not None
    return states[:, 0]


def _audio_alone(
    model: EmotionModel,
    x: Float[Array, "1 frames 160"],
    states: Float[Array, "states frames width"],
    mask: Bool[Array, "1 frames"],
) -> tuple[Float[Array, "1 frames width"], Float[Array, "layers frames width"], Float[Array, "1 projection"]]:
    """The projection of `x`, each layer's output for the state before it, the pooled vector of the last state."""
    encoder = model.audio_encoder
    assert encoder is not None
    projected = encoder(x, mask, hidden_states=True).hidden_states
    assert projected is not None
    last = encoder.leave(states[-1:], mask, states[:, None])
    return projected[0], run_layers_alone(encoder.layers, lambda own, x: own(x, mask), states), model.pool(last)


def _text_alone(
    model: EmotionModel,
    ids: Int[Array, "1 tokens"],
    states: Float[Array, "states tokens width"],
    mask: Bool[Array, "1 tokens"],
) -> tuple[Float[Array, "1 tokens width"], Float[Array, "layers tokens width"]]:
    encoder = model.text_encoder
    assert encoder is not None
    return encoder.embeddings(ids), run_layers_alone(encoder.layers, lambda own, x: own(x, mask), states)


def _judge(
    model: EmotionModel,
    audio: Float[Array, "1 audio_width"] | None,
    text: Float[Array, "1 text_width"] | None,
) -> tuple[Float[Array, "1 head_width"], Float[Array, "1 labels"], Float[Array, "1 labels"]]:
    fused = model.fuse(audio, text)
    logits = model.classifier(fused)
    return fused, logits, model.probabilities(logits)


def _head(model: EmotionModel, fused: Float[Array, "1 head_width"]) -> Float[Array, "1 labels"]:
    return model.classifier(fused)


def _probabilities(model: EmotionModel, logits: Float[Array, "1 labels"]) -> Float[Array, "1 labels"]:
    return model.probabilities(logits)
