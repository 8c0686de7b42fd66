"""How a clip's audio vector and text vector become one, and the head that classifies the result."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .layers import Linear, contract, layer_norm, stacked


def concat(
    audio: Float[Array, "batch audio_width"], text: Float[Array, "batch text_width"]
) -> Float[Array, "batch audio_width+text_width"]:
    """[audio, text]"""
    return jnp.concatenate([audio, text], axis=-1)


def mean(audio: Float[Array, "batch width"], text: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """(audio + text) / 2"""
    return (audio + text) / 2


class CrossAttentionHead(nnx.Module):
    """One head: text attends to audio and, with weights of its own, audio to text.

    Each modality is one vector a clip, so a clip has one key, the softmax over it is 1, and attention returns its
    value; the queries and keys then have no influence. With `across_batch` the clips of the batch are each other's
    keys, which is what the original's rank-2 tensors do: it couples a clip's result to its neighbours, and is here to
    study how published scores came about.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
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
    ) -> Float[Array, "batch width"]:
        value, value_reverse = self.value(audio), self.value_reverse(text)
        if across_batch:
            attended = _attend_across(
                self.query_key_norm(self.query(text)), self.query_key_norm(self.key(audio)), value
            )
            attended_reverse = _attend_across(self.query_reverse(audio), self.key_reverse(text), value_reverse)
        else:
            attended, attended_reverse = value, value_reverse
        return self.output(jnp.concatenate([attended + value, attended_reverse + value_reverse], axis=-1))


def _attend_across(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    scores = contract("qd,kd->qk", query, key) * query.shape[-1] ** -0.5
    return contract("qk,kd->qd", jax.nn.softmax(scores, axis=-1), value)


class Multihead(nnx.Module):
    """Cross-attention heads side by side, concatenated and projected back to one width."""

    def __init__(self, heads: int, width: int, *, rngs: nnx.Rngs):
        self.heads = stacked(lambda rngs: CrossAttentionHead(width, rngs=rngs), heads, rngs=rngs)
        self.proj = Linear(heads * width, width, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "batch width"],
        text: Float[Array, "batch width"],
        *,
        across_batch: bool = False,
    ) -> Float[Array, "batch width"]:
        """Fuse the vectors of each clip; `across_batch` is explained in `CrossAttentionHead`."""
        graph, parameters = nnx.split(self.heads)

        def head(parameters: Any) -> jax.Array:
            return nnx.merge(graph, parameters)(audio, text, across_batch=across_batch)

        outputs = jax.vmap(head)(parameters)
        return self.proj(jnp.concatenate(list(outputs), axis=-1))


class ClassificationHead(nnx.Module):
    """dense, tanh, out_proj: one logit a label."""

    def __init__(self, width: int, labels: int, *, rngs: nnx.Rngs):
        self.dense = Linear(width, width, rngs=rngs)
        self.out_proj = Linear(width, labels, rngs=rngs)

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch labels"]:
        return self.out_proj(jnp.tanh(self.dense(x)))
