"""BERT and RoBERTa encoders (Devlin et al. 2019, Liu et al. 2019): equal post-norm layers, stacked and scanned.

The two differ only in the position of the first token, which is `BertConfig.position_offset`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from ..config import BertConfig
from .attention import attend
from .layers import ACTIVATIONS, Learning, Linear, dropout, layer_norm, scan_layers, split_key, stacked


class TextStates(NamedTuple):
    """What the encoder returns.

    Attributes:
        last: Output of the last layer, float32.
        hidden_states: The embeddings and each layer's output, layers + 1 states, where requested; else None.
    """

    last: Float[Array, "batch tokens width"]
    hidden_states: Float[Array, "states batch tokens width"] | None


class Embeddings(nnx.Module):
    """Word, position and token-type embeddings, added and normalised. The token type is always 0."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Initialize the three tables at random."""
        self.offset = config.position_offset

        def table(rows: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, config.hidden_size), jnp.float32))

        self.word = table(config.vocab_size)
        self.position = table(config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def __call__(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        """Embed token ids."""
        tokens = ids.shape[1]
        # Padding follows the text, so real tokens have consecutive positions from the offset on. Padding tokens get
        # positions too, which has no effect because they are never attended to.
        positions = self.position[...][self.offset : self.offset + tokens]
        return self.layer_norm(self.word[...][ids] + (positions + self.token_type[...][:1])[None])


class BertLayer(nnx.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised afterwards."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Initialize the layer at random."""
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.heads, self.activation = config.num_attention_heads, config.hidden_act
        self.drop, self.drop_weights = config.hidden_dropout_prob, config.attention_probs_dropout_prob
        self.query = Linear(width, width, rngs=rngs)
        self.key = Linear(width, width, rngs=rngs)
        self.value = Linear(width, width, rngs=rngs)
        self.attention_output = Linear(width, width, rngs=rngs)
        self.attention_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.intermediate = Linear(width, config.intermediate_size, rngs=rngs)
        self.output = Linear(config.intermediate_size, width, rngs=rngs)
        self.output_layer_norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Apply the layer.

        Args:
            x: Output of the layer below.
            mask: True at real tokens.
            key: Draws dropout. None turns dropout off.
        """
        weights_key, attention_key, inner_key = split_key(key, 3)

        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        dtype = self.query.kernel[...].dtype
        attended = attend(
            split(self.query(x)),
            split(self.key(x)),
            split(self.value(x)),
            mask,
            dtype=dtype,
            drop=self.drop_weights,
            drop_key=weights_key,
        )
        attended = self.attention_output(attended.reshape(x.shape))
        x = self.attention_layer_norm(x + dropout(attended, self.drop, attention_key))
        inner = self.output(ACTIVATIONS[self.activation](self.intermediate(x)))
        return self.output_layer_norm(x + dropout(inner, self.drop, inner_key))


class Bert(nnx.Module):
    """The encoder: from token ids and their mask to hidden states."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        """Initialize the encoder at random."""
        self.drop = config.hidden_dropout_prob
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers: Any = stacked(lambda rngs: BertLayer(config, rngs=rngs), config.num_hidden_layers, rngs=rngs)

    def __call__(
        self,
        ids: Int[Array, "batch tokens"],
        mask: Bool[Array, "batch tokens"],
        *,
        hidden_states: bool = False,
        learning: Learning | None = None,
    ) -> TextStates:
        """Encode padded token ids.

        Args:
            ids: Token ids. There may be at most `BertConfig.max_tokens` per text, because there are no further
                positions.
            mask: True at real tokens, which come before the padding.
            hidden_states: Whether to return the embeddings and the output of each layer.
            learning: What differs in training. None runs the encoder as in inference.
        """
        entry_key, layers_key = split_key(None if learning is None else learning.key, 2)
        last, states = scan_layers(
            self.layers,
            lambda layer, x, key: layer(x, mask, key),
            self.embed(ids, mask, entry_key),
            hidden_states=hidden_states,
            learning=None if learning is None else learning._replace(key=layers_key),
        )
        return self.finalize(last, mask, states)

    def embed(
        self, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch tokens width"]:
        """Compute the input of the first layer. `key` draws dropout in training."""
        return dropout(self.embeddings(ids), self.drop, key)

    def finalize(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        states: Float[Array, "states batch tokens width"] | None = None,
    ) -> TextStates:
        """Turn the output of the last layer into `TextStates`. BERT computes nothing after its layers."""
        return TextStates(x, states)
