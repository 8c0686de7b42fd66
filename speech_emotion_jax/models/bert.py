"""BERT and RoBERTa encoders (Devlin et al. 2019, Liu et al. 2019): equal post-norm layers, stacked and scanned.

The two differ in their position numbers only; `BertConfig.position_offset` carries the difference.
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
    """`last` (batch, tokens, width) float32; `hidden_states` (layers + 1, batch, tokens, width) where asked for."""

    last: Float[Array, "batch tokens width"]
    hidden_states: Float[Array, "states batch tokens width"] | None


class Embeddings(nnx.Module):
    """Word + position + token type (always type 0), then LayerNorm."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.offset = config.position_offset

        def table(rows: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, config.hidden_size), jnp.float32))

        self.word = table(config.vocab_size)
        self.position = table(config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def __call__(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        tokens = ids.shape[1]
        # Padding follows the text, so real tokens count up from the offset; what padding gets is never attended to.
        positions = self.position[...][self.offset : self.offset + tokens]
        return self.layer_norm(self.word[...][ids] + (positions + self.token_type[...][:1])[None])


class BertLayer(nnx.Module):
    """LayerNorm(x + attention), then LayerNorm(x + FFN)."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
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
    """The encoder: token ids and their mask in, hidden states out."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
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
        """Encode padded token ids; `mask` is true at real tokens, which stand before the padding.

        At most `BertConfig.max_tokens` tokens: there are no positions for more. `learning` is what differs in training.
        """
        entry_key, layers_key = split_key(None if learning is None else learning.key, 2)
        last, states = scan_layers(
            self.layers,
            lambda layer, x, key: layer(x, mask, key),
            self.enter(ids, mask, entry_key),
            hidden_states=hidden_states,
            learning=None if learning is None else learning._replace(key=layers_key),
        )
        return self.leave(last, mask, states)

    def enter(
        self, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch tokens width"]:
        """What the first layer is given: the embeddings. `key` is that of training."""
        return dropout(self.embeddings(ids), self.drop, key)

    def leave(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        states: Float[Array, "states batch tokens width"] | None = None,
    ) -> TextStates:
        """What comes after the layers: nothing."""
        return TextStates(x, states)
