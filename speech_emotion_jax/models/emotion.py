"""The emotion model of every mode and language: encode the audio, encode the text, fuse, classify."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from ..config import EmotionConfig
from . import fusion
from .bert import Bert
from .layers import Learning, Linear, split_key
from .wav2vec2_bert import AudioStates, Wav2Vec2Bert


class EmotionModel(nnx.Module):
    """The model of all five modes. `config.mode` determines which encoders it has and how their vectors are fused."""

    def __init__(self, config: EmotionConfig, *, rngs: nnx.Rngs):
        """Initialize the model at random."""
        self.config = config
        self.audio_encoder = nnx.data(None)
        self.projector = nnx.data(None)
        self.layer_weights = nnx.data(None)
        self.text_encoder = nnx.data(None)
        self.fusion = nnx.data(None)
        if config.audio is not None and config.projection_width is not None:
            self.audio_encoder = Wav2Vec2Bert(config.audio, rngs=rngs)
            self.projector = Linear(config.audio.output_width, config.projection_width, rngs=rngs)
            if config.audio.use_weighted_layer_sum:
                states = config.audio.num_hidden_layers + 1
                self.layer_weights = nnx.Param(jnp.full(states, 1 / states, jnp.float32))
        if config.text is not None:
            self.text_encoder = Bert(config.text, rngs=rngs)
        if config.fusion_heads is not None and config.projection_width is not None:
            self.fusion = fusion.Multihead(config.fusion_heads, config.projection_width, rngs=rngs)
        self.classifier = fusion.ClassificationHead(
            config.head_width, len(config.labels), drop=config.head_dropout, rngs=rngs
        )

    def encode_audio(
        self,
        features: Float[Array, "batch frames features"],
        mask: Bool[Array, "batch frames"],
        learning: Learning | None = None,
    ) -> Float[Array, "batch width"]:
        """Compute one vector per clip: the projected encoder states, averaged over the unmasked frames.

        Args:
            features: Stacked filter banks, one frame every 20 ms, padded to one length.
            mask: True at real frames.
            learning: What differs in training. None runs the encoder as in inference.

        Raises:
            TypeError: The mode has no audio encoder.
        """
        if self.audio_encoder is None:
            raise TypeError(f"a model of mode {self.config.mode!r} has no audio encoder")
        return self.pool(
            self.audio_encoder(features, mask, hidden_states=self.layer_weights is not None, learning=learning)
        )

    def pool(self, states: AudioStates) -> Float[Array, "batch width"]:
        """Compute one vector per clip from the audio encoder's states.

        With `layer_weights` the states are the weighted sum of all hidden states, else those of the last layer.

        Raises:
            TypeError: The mode has no audio encoder.
        """
        if self.projector is None:
            raise TypeError(f"a model of mode {self.config.mode!r} has no audio encoder")
        x = states.last
        if self.layer_weights is not None and states.hidden_states is not None:
            weights = jax.nn.softmax(self.layer_weights[...])
            x = jnp.tensordot(weights, states.hidden_states, axes=1, precision="highest")
        x = jnp.where(states.mask[..., None], self.projector(x), 0.0)
        return x.sum(axis=1) / states.mask.sum(axis=1, dtype=jnp.float32)[:, None]

    def encode_text(
        self,
        ids: Int[Array, "batch tokens"],
        mask: Bool[Array, "batch tokens"],
        learning: Learning | None = None,
    ) -> Float[Array, "batch width"]:
        """Compute one vector per text: the last layer's state of the first token ([CLS] or <s>).

        Args:
            ids: Token ids, padded to one length.
            mask: True at real tokens.
            learning: What differs in training. None runs the encoder as in inference.

        Raises:
            TypeError: The mode has no text encoder.
        """
        if self.text_encoder is None:
            raise TypeError(f"a model of mode {self.config.mode!r} has no text encoder")
        return self.text_encoder(ids, mask, learning=learning).last[:, 0]

    def fuse(
        self,
        audio: Float[Array, "batch audio_width"] | None,
        text: Float[Array, "batch text_width"] | None,
        *,
        across_batch: bool = False,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch head_width"]:
        """Compute the vector that is classified: the single modality of modes text and audio, else both, fused.

        Args:
            audio: Pooled audio vectors; None in mode text.
            text: Pooled text vectors; None in mode audio.
            across_batch: Let the clips of a batch attend to each other in mode multihead; see
                `fusion.CrossAttentionHead`.
            key: Draws the dropout of mode multihead. None turns it off.

        Raises:
            TypeError: A vector that the mode needs is missing, or one is given that it does not use.
        """
        needs_audio, needs_text = self.config.audio is not None, self.config.text is not None
        if (audio is not None, text is not None) != (needs_audio, needs_text):
            needed = [name for name, needs in (("audio", needs_audio), ("text", needs_text)) if needs]
            raise TypeError(f"a model of mode {self.config.mode!r} takes {' and '.join(needed)}, no more and no less")
        if audio is None or text is None:
            (vector,) = (each for each in (audio, text) if each is not None)
            return vector
        if self.fusion is not None:
            return self.fusion(audio, text, across_batch=across_batch, key=key)
        return fusion.concat(audio, text) if self.config.mode == "concat" else fusion.mean(audio, text)

    def classify(
        self,
        audio: Float[Array, "batch audio_width"] | None,
        text: Float[Array, "batch text_width"] | None,
        *,
        across_batch: bool = False,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch labels"]:
        """Compute logits from pooled vectors. For the arguments see `fuse`; `key` also draws the head's dropout.

        Raises:
            TypeError: A vector that the mode needs is missing, or one is given that it does not use.
        """
        fusion_key, head_key = split_key(key, 2)
        return self.classifier(self.fuse(audio, text, across_batch=across_batch, key=fusion_key), head_key)

    def __call__(
        self,
        features: Float[Array, "batch frames features"] | None = None,
        frame_mask: Bool[Array, "batch frames"] | None = None,
        ids: Int[Array, "batch tokens"] | None = None,
        token_mask: Bool[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch labels"]:
        """Compute the logits of a batch.

        Args:
            features: Stacked filter banks, padded; None in mode text.
            frame_mask: True at real frames; None in mode text.
            ids: Token ids, padded; None in mode audio.
            token_mask: True at real tokens; None in mode audio.
        """
        audio = None if features is None or frame_mask is None else self.encode_audio(features, frame_mask)
        text = None if ids is None or token_mask is None else self.encode_text(ids, token_mask)
        return self.classify(audio, text)

    def probabilities(self, logits: Float[Array, "batch labels"]) -> Float[Array, "batch labels"]:
        """Turn logits into probabilities: a softmax over the labels, or a sigmoid each in a multi-label checkpoint."""
        return jax.nn.sigmoid(logits) if self.config.multi_label else jax.nn.softmax(logits, axis=-1)
