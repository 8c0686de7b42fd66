"""Wav2Vec2-BERT: the conformer encoder of speech (Barrault et al. 2023, facebook/w2v-bert-2.0).

Features (batch, frames, 160) enter by LayerNorm and a linear map to the encoder's width; then come equal conformer
layers, stacked and scanned. Padded frames are zeroed before the first layer and before each convolution and are never
attended to, so a clip's result does not depend on its padding.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ..config import Wav2Vec2BertConfig
from .attention import attend
from .layers import ACTIVATIONS, Linear, contract, layer_at, layer_norm, scan_layers, stacked


class AudioStates(NamedTuple):
    """What the encoder returns.

    `last` (batch, frames, width) float32; `mask` (batch, frames) bool, subsampled where there is an adapter;
    `hidden_states` (layers + 1, batch, frames, width) where asked for: [0] is the masked projection, [i] what layer i
    puts out.
    """

    last: Float[Array, "batch frames width"]
    mask: Bool[Array, "batch frames"]
    hidden_states: Float[Array, "states batch all_frames hidden"] | None


class FeedForward(nnx.Module):
    def __init__(self, width: int, inner: int, activation: str, *, rngs: nnx.Rngs):
        self.activation = activation
        self.intermediate_dense = Linear(width, inner, rngs=rngs)
        self.output_dense = Linear(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch frames width"]:
        return self.output_dense(ACTIVATIONS[self.activation](self.intermediate_dense(x)))


class SelfAttention(nnx.Module):
    """Attention of a conformer layer, or (`positions=False`) of an adapter layer, which has no positions."""

    def __init__(self, config: Wav2Vec2BertConfig, width: int, *, positions: bool = True, rngs: nnx.Rngs):
        self.heads = config.num_attention_heads
        self.left = config.left_max_position_embeddings
        self.linear_q = Linear(width, width, rngs=rngs)
        self.linear_k = Linear(width, width, rngs=rngs)
        self.linear_v = Linear(width, width, rngs=rngs)
        self.linear_out = Linear(width, width, rngs=rngs)
        if positions:
            shape = (config.positions, width // self.heads)
            self.distance_embedding = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape, jnp.float32))
        else:
            self.distance_embedding = nnx.data(None)

    def __call__(
        self, x: Float[Array, "batch frames width"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch frames width"]:
        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        attended = attend(
            split(self.linear_q(x)),
            split(self.linear_k(x)),
            split(self.linear_v(x)),
            mask,
            dtype=self.linear_q.kernel[...].dtype,
            distances=None if self.distance_embedding is None else self.distance_embedding[...],
            left=self.left,
        )
        return self.linear_out(attended.reshape(x.shape))


class Convolution(nnx.Module):
    """Pointwise, GLU, causal depthwise, LayerNorm, activation, pointwise; no biases."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        width, self.taps = config.hidden_size, config.conv_depthwise_kernel_size
        self.activation = config.hidden_act
        self.layer_norm = layer_norm(width, config.layer_norm_eps, rngs=rngs)
        self.pointwise_conv1 = Linear(width, 2 * width, bias=False, rngs=rngs)
        taps = nnx.initializers.normal(self.taps**-0.5)(rngs.params(), (self.taps, width), jnp.float32)
        self.depthwise_kernel = nnx.Param(taps)
        self.depthwise_layer_norm = layer_norm(width, config.layer_norm_eps, rngs=rngs)
        self.pointwise_conv2 = Linear(width, width, bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch frames width"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch frames width"]:
        frames = x.shape[1]
        x = jnp.where(mask[..., None], self.layer_norm(x), 0.0)
        signal, gate = jnp.split(self.pointwise_conv1(x), 2, axis=-1)
        x = jnp.pad(signal * jax.nn.sigmoid(gate), ((0, 0), (self.taps - 1, 0), (0, 0)))
        # Shifted multiply-adds fuse into one pass; XLA's grouped convolution is slower on CPUs.
        kernel = self.depthwise_kernel[...][:, None, None, :]
        x = sum((x[:, tap : tap + frames] * kernel[tap] for tap in range(self.taps)), start=jnp.zeros_like(signal))
        x = ACTIVATIONS[self.activation](self.depthwise_layer_norm(x))
        return self.pointwise_conv2(x)


class ConformerLayer(nnx.Module):
    """x + 1/2 FFN1, + attention, + convolution, + 1/2 FFN2, then LayerNorm (Gulati et al. 2020)."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        width, inner, epsilon = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.ffn1_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.ffn1 = FeedForward(width, inner, config.hidden_act, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.self_attn = SelfAttention(config, width, rngs=rngs)
        self.conv_module = Convolution(config, rngs=rngs)
        self.ffn2_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.ffn2 = FeedForward(width, inner, config.hidden_act, rngs=rngs)
        self.final_layer_norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch frames width"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch frames width"]:
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        x = x + self.conv_module(x, mask)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return self.final_layer_norm(x)


class StridedConvolution(nnx.Module):
    """Convolution over time with GLU, which shortens an adapter's input by its stride."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        width, self.stride = config.output_hidden_size, config.adapter_stride
        shape = (config.adapter_kernel_size, width, 2 * width)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(2 * width, jnp.float32))

    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch fewer_frames width"]:
        kernel = self.kernel[...]
        x = jnp.pad(x, ((0, 0), (self.stride // 2, self.stride // 2), (0, 0)))
        starts = range(0, x.shape[1] - kernel.shape[0] + 1, self.stride)
        windows = jnp.stack(
            [x[:, tap : tap + len(starts) * self.stride : self.stride] for tap in range(kernel.shape[0])]
        )
        y = contract("kbti,kio->bto", windows[:, :, : len(starts)], kernel) + self.bias[...][None, None]
        signal, gate = jnp.split(y, 2, axis=-1)
        return signal * jax.nn.sigmoid(gate)


class AdapterLayer(nnx.Module):
    """Shortens the sequence, then attends without positions."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        width, epsilon = config.output_hidden_size, config.layer_norm_eps
        self.residual_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.residual_conv = StridedConvolution(config, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.self_attn_conv = StridedConvolution(config, rngs=rngs)
        self.self_attn = SelfAttention(config, width, positions=False, rngs=rngs)
        self.ffn_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.ffn = FeedForward(width, config.intermediate_size, config.adapter_act, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch frames width"],
        mask: Bool[Array, "batch frames"],
        shorter_mask: Bool[Array, "batch fewer_frames"],
    ) -> Float[Array, "batch fewer_frames width"]:
        # Padding is zeroed before each convolution, as a clip alone is padded with zeros.
        residual = self.residual_conv(jnp.where(mask[..., None], self.residual_layer_norm(x), 0.0))
        x = self.self_attn_conv(jnp.where(mask[..., None], self.self_attn_layer_norm(x), 0.0))
        x = residual + self.self_attn(x, shorter_mask)
        return x + self.ffn(self.ffn_layer_norm(x))


class Adapter(nnx.Module):
    """Optional layers after the encoder that shorten its output; no published emotion checkpoint has them."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        self.count, self.taps, self.stride = (
            config.num_adapter_layers,
            config.adapter_kernel_size,
            config.adapter_stride,
        )
        if config.output_hidden_size != config.hidden_size:
            self.proj = Linear(config.hidden_size, config.output_hidden_size, rngs=rngs)
            self.proj_layer_norm = layer_norm(config.output_hidden_size, config.layer_norm_eps, rngs=rngs)
        else:
            self.proj = self.proj_layer_norm = nnx.data(None)
        self.layers = stacked(lambda rngs: AdapterLayer(config, rngs=rngs), self.count, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch frames hidden"], mask: Bool[Array, "batch frames"]
    ) -> tuple[Float[Array, "batch fewer_frames width"], Bool[Array, "batch fewer_frames"]]:
        if self.proj is not None and self.proj_layer_norm is not None:
            x = self.proj_layer_norm(self.proj(x))
        lengths = mask.sum(axis=1)
        for index in range(self.count):  # each layer has another length, so there is nothing to scan
            lengths = (lengths + 2 * (self.taps // 2) - self.taps) // self.stride + 1
            frames = (x.shape[1] + 2 * (self.stride // 2) - self.taps) // self.stride + 1
            shorter_mask = jnp.arange(frames)[None, :] < lengths[:, None]
            x = layer_at(self.layers, index)(x, mask, shorter_mask)
            mask = shorter_mask
        return x, mask


class Wav2Vec2Bert(nnx.Module):
    """The encoder: features and their mask in, hidden states out."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        inputs, width = config.feature_projection_input_dim, config.hidden_size
        self.feature_layer_norm = layer_norm(inputs, config.layer_norm_eps, rngs=rngs)
        self.feature_projection = Linear(inputs, width, rngs=rngs)
        self.layers = stacked(lambda rngs: ConformerLayer(config, rngs=rngs), config.num_hidden_layers, rngs=rngs)
        self.intermediate_ffn = (
            FeedForward(width, config.intermediate_size, "relu", rngs=rngs)
            if config.use_intermediate_ffn_before_adapter
            else nnx.data(None)
        )
        self.adapter = Adapter(config, rngs=rngs) if config.add_adapter else nnx.data(None)

    def __call__(
        self,
        features: Float[Array, "batch frames features"],
        mask: Bool[Array, "batch frames"],
        *,
        hidden_states: bool = False,
    ) -> AudioStates:
        """Encode padded features; `mask` is true at real frames. See `AudioStates` for what comes back."""
        x = self.feature_projection(self.feature_layer_norm(features))
        x = jnp.where(mask[..., None], x, 0.0)
        last, states = scan_layers(self.layers, lambda layer, x: layer(x, mask), x, hidden_states=hidden_states)
        if self.intermediate_ffn is not None:
            last = last + 0.5 * self.intermediate_ffn(last)
        if self.adapter is not None:
            last, mask = self.adapter(last, mask)
        return AudioStates(last, mask, states)
