"""How a clip's audio vector and text vector become one, and the head that classifies the result."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from .layers import Linear, contract, dropout, layer_norm, split_key, stacked

MULTIHEAD_DROPOUT = 0.3  # The original drops this fraction of the attention weights and of the output of `Multihead`.


def concat(
    audio: Float[Array, "batch audio_width"], text: Float[Array, "batch text_width"]
) -> Float[Array, "batch audio_width+text_width"]:
    """Concatenate the two vectors, audio first."""
    return jnp.concatenate([audio, text], axis=-1)


def mean(audio: Float[Array, "batch width"], text: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Average the two vectors."""
    return (audio + text) / 2


class CrossAttentionHead(nnx.Module):
    """One head: text attends to audio and, with weights of its own, audio to text.

    Each modality is one vector per clip. A clip therefore has one key, the softmax over it is 1, and attention returns
    the
    value: queries and keys have no influence. With `across_batch` the clips of a batch are keys for each other, as the
    original's rank-2 tensors have it. That makes a clip's result depend on the other clips of its batch, and serves
    only to study how the published scores were computed.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        """Initialize the head at random."""
        self.query = Linear(width, width, rngs=rngs)
        self.key = Linear(width, width, rngs=rngs)
        self.value = Linear(width, width, rngs=rngs)
        self.query_reverse = Linear(width, width, rngs=rngs)
        self.key_reverse = Linear(width, width, rngs=rngs)
        self.value_reverse = Linear(width, width, rngs=rngs)
        self.query_key_norm = layer_norm(width, 1e-5, rngs=rngs)
        self.output = Linear(2 * width, width, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "batch width"],
        text: Float[Array, "batch width"],
        *,
        across_batch: bool = False,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch width"]:
        """Fuse the vectors of each clip. For the arguments see `EmotionModel.fuse`."""
        value, value_reverse = self.value(audio), self.value_reverse(text)
        forward_key, reverse_key = split_key(key, 2)
        if across_batch:
            weights = _weights(self.query_key_norm(self.query(text)), self.query_key_norm(self.key(audio)))
            weights_reverse = _weights(self.query_reverse(audio), self.key_reverse(text))
            attended = contract("qk,kd->qd", dropout(weights, MULTIHEAD_DROPOUT, forward_key), value)
            attended_reverse = contract(
                "qk,kd->qd", dropout(weights_reverse, MULTIHEAD_DROPOUT, reverse_key), value_reverse
            )
        else:
            weight = jnp.ones((value.shape[0], 1), jnp.float32)  # The softmax over a single key is 1.
            attended = dropout(weight, MULTIHEAD_DROPOUT, forward_key) * value
            attended_reverse = dropout(weight, MULTIHEAD_DROPOUT, reverse_key) * value_reverse
        return self.output(jnp.concatenate([attended + value, attended_reverse + value_reverse], axis=-1))


def _weights(query: jax.Array, key: jax.Array) -> jax.Array:
    return jax.nn.softmax(contract("qd,kd->qk", query, key) * query.shape[-1] ** -0.5, axis=-1)


class Multihead(nnx.Module):
    """Cross-attention heads side by side, concatenated and projected back to one width."""

    def __init__(self, heads: int, width: int, *, rngs: nnx.Rngs):
        """Initialize the heads at random."""
        self.heads = stacked(lambda rngs: CrossAttentionHead(width, rngs=rngs), heads, rngs=rngs)
        self.proj = Linear(heads * width, width, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "batch width"],
        text: Float[Array, "batch width"],
        *,
        across_batch: bool = False,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch width"]:
        """Fuse the vectors of each clip. For the arguments see `EmotionModel.fuse`."""
        graph, parameters = nnx.split(self.heads)
        proj_key, heads_key = split_key(key, 2)
        keys = None if heads_key is None else jax.random.split(heads_key, len(jax.tree.leaves(parameters)[0]))

        def head(parameters: Any, key: jax.Array | None) -> jax.Array:
            return nnx.merge(graph, parameters)(audio, text, across_batch=across_batch, key=key)

        outputs = jax.vmap(head)(parameters, keys)
        return dropout(self.proj(jnp.concatenate(list(outputs), axis=-1)), MULTIHEAD_DROPOUT, proj_key)


class ClassificationHead(nnx.Module):
    """A linear layer, tanh, and a linear layer to one logit per label."""

    def __init__(self, width: int, labels: int, *, drop: float = 0.0, rngs: nnx.Rngs):
        """Initialize the head at random. In training, `drop` is the rate of dropout before each of the two layers."""
        self.drop = drop
        self.dense = Linear(width, width, rngs=rngs)
        self.out_proj = Linear(width, labels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch width"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch labels"]:
        """Compute logits. `key` draws dropout; None turns it off."""
        dense_key, out_key = split_key(key, 2)
        x = jnp.tanh(self.dense(dropout(x, self.drop, dense_key)))
        return self.out_proj(dropout(x, self.drop, out_key))
