"""BERT and RoBERTa encoders (Devlin et al. 2019, Liu et al. 2019): equal post-norm layers, stacked and scanned.

The two differ in their position numbers only; `BertConfig.position_offset` carries the difference.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ..config import BertConfig
from .attention import attend
from .layers import ACTIVATIONS, Linear, layer_norm, scan_layers, stacked


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
        self.query = Linear(width, width, rngs=rngs)
        self.key = Linear(width, width, rngs=rngs)
        self.value = Linear(width, width, rngs=rngs)
        self.attention_output = Linear(width, width, rngs=rngs)
        self.attention_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.intermediate = Linear(width, config.intermediate_size, rngs=rngs)
        self.output = Linear(config.intermediate_size, width, rngs=rngs)
        self.output_layer_norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens width"]:
        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        dtype = self.query.kernel[...].dtype
        attended = attend(split(self.query(x)), split(self.key(x)), split(self.value(x)), mask, dtype=dtype)
        x = self.attention_layer_norm(x + self.attention_output(attended.reshape(x.shape)))
        inner = ACTIVATIONS[self.activation](self.intermediate(x))
        return self.output_layer_norm(x + self.output(inner))


class Bert(nnx.Module):
    """The encoder: token ids and their mask in, hidden states out."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = stacked(lambda rngs: BertLayer(config, rngs=rngs), config.num_hidden_layers, rngs=rngs)

    def __call__(
        self,
        ids: Int[Array, "batch tokens"],
        mask: Bool[Array, "batch tokens"],
        *,
        hidden_states: bool = False,
    ) -> TextStates:
        """Encode padded token ids; `mask` is true at real tokens, which stand before the padding.

        At most `BertConfig.max_tokens` tokens: there are no positions for more.
        """
        x = self.embeddings(ids)
        last, states = scan_layers(self.layers, lambda layer, x: layer(x, mask), x, hidden_states=hidden_states)
        return TextStates(last, states)
