"""Wav2Vec2-BERT, the conformer encoder of speech (Barrault et al. 2023, facebook/w2v-bert-2.0).

A LayerNorm and a linear map project features (batch, frames, 160) to the encoder's width. Equal conformer layers
follow, stacked and scanned. Padded frames are zeroed before the first layer and before each convolution, and are never
attended to, so the result of a clip does not depend on its padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from ..config import Wav2Vec2BertConfig
from .attention import attend
from .depthwise import depthwise
from .layers import (
    ACTIVATIONS,
    Learning,
    Linear,
    contract,
    dropout,
    layer_at,
    layer_norm,
    scan_layers,
    split_key,
    stacked,
)
from .spec_augment import masked_spans


class AudioStates(NamedTuple):
    """What the encoder returns.

    Attributes:
        last: Output of the encoder, float32.
        mask: True at real frames of `last`. An adapter, if any, has subsampled it.
        hidden_states: The masked projection and each layer's output, layers + 1 states, where requested; else None.
    """

    last: Float[Array, "batch frames width"]
    mask: Bool[Array, "batch frames"]
    hidden_states: Float[Array, "states batch all_frames hidden"] | None


class FeedForward(nnx.Module):
    """A linear layer, an activation, and a linear layer back to the width."""

    def __init__(
        self, width: int, inner: int, activation: str, *, drops: tuple[float, float] = (0.0, 0.0), rngs: nnx.Rngs
    ):
        """Initialize the layers at random. `drops` are the dropout rates after the activation and after the output."""
        self.activation = activation
        self.inner_drop, self.output_drop = drops
        self.intermediate_dense = Linear(width, inner, rngs=rngs)
        self.output_dense = Linear(inner, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch frames width"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch frames width"]:
        """Apply the network. `key` draws dropout; None turns it off."""
        inner_key, output_key = split_key(key, 2)
        inner = dropout(ACTIVATIONS[self.activation](self.intermediate_dense(x)), self.inner_drop, inner_key)
        return dropout(self.output_dense(inner), self.output_drop, output_key)


class SelfAttention(nnx.Module):
    """Self-attention with relative positions, or without positions in an adapter layer."""

    def __init__(self, config: Wav2Vec2BertConfig, width: int, *, positions: bool = True, rngs: nnx.Rngs):
        """Initialize the projections and, with `positions`, the distance vectors at random."""
        self.heads = config.num_attention_heads
        self.left = config.left_max_position_embeddings
        self.drop = config.attention_dropout
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
        self,
        x: Float[Array, "batch frames width"],
        mask: Bool[Array, "batch frames"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch frames width"]:
        """Attend from each frame to all real frames.

        Args:
            x: Input, one vector per frame.
            mask: True at real frames.
            key: Draws dropout. None turns it off.
        """
        weights_key, output_key = split_key(key, 2)

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
            drop=self.drop,
            drop_key=weights_key,
        )
        return dropout(self.linear_out(attended.reshape(x.shape)), self.drop, output_key)


class Convolution(nnx.Module):
    """Pointwise convolution, GLU, causal depthwise convolution, LayerNorm, activation, pointwise; no biases."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the kernels at random."""
        width, taps = config.hidden_size, config.conv_depthwise_kernel_size
        self.activation, self.drop = config.hidden_act, config.conformer_conv_dropout
        self.layer_norm = layer_norm(width, config.layer_norm_eps, rngs=rngs)
        self.pointwise_conv1 = Linear(width, 2 * width, bias=False, rngs=rngs)
        kernel = nnx.initializers.normal(taps**-0.5)(rngs.params(), (taps, width), jnp.float32)
        self.depthwise_kernel = nnx.Param(kernel)
        self.depthwise_layer_norm = layer_norm(width, config.layer_norm_eps, rngs=rngs)
        self.pointwise_conv2 = Linear(width, width, bias=False, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch frames width"],
        mask: Bool[Array, "batch frames"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch frames width"]:
        """Convolve over time. For the arguments see `SelfAttention.__call__`."""
        x = jnp.where(mask[..., None], self.layer_norm(x), 0.0)
        signal, gate = jnp.split(self.pointwise_conv1(x), 2, axis=-1)
        x = depthwise(signal * jax.nn.sigmoid(gate), self.depthwise_kernel[...])
        x = ACTIVATIONS[self.activation](self.depthwise_layer_norm(x))
        return dropout(self.pointwise_conv2(x), self.drop, key)


class ConformerLayer(nnx.Module):
    """A conformer layer (Gulati et al. 2020): x + 1/2 FFN1, + attention, + convolution, + 1/2 FFN2, then LayerNorm."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the layer at random."""
        width, inner, epsilon = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        drops = (config.activation_dropout, config.hidden_dropout)
        self.ffn1_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.ffn1 = FeedForward(width, inner, config.hidden_act, drops=drops, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.self_attn = SelfAttention(config, width, rngs=rngs)
        self.conv_module = Convolution(config, rngs=rngs)
        self.ffn2_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.ffn2 = FeedForward(width, inner, config.hidden_act, drops=drops, rngs=rngs)
        self.final_layer_norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch frames width"],
        mask: Bool[Array, "batch frames"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch frames width"]:
        """Apply the layer. For the arguments see `SelfAttention.__call__`."""
        ffn1_key, attention_key, convolution_key, ffn2_key = split_key(key, 4)
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x), ffn1_key)
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask, attention_key)
        x = x + self.conv_module(x, mask, convolution_key)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x), ffn2_key)
        return self.final_layer_norm(x)


class StridedConvolution(nnx.Module):
    """Convolution over time with GLU. It shortens an adapter's input by its stride."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the kernel at random and the bias with zeros."""
        width, self.stride = config.output_hidden_size, config.adapter_stride
        shape = (config.adapter_kernel_size, width, 2 * width)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(2 * width, jnp.float32))

    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch fewer_frames width"]:
        """Convolve over time. Padding on both sides is half of the stride, as in transformers."""
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
    """A layer that shortens the sequence and then attends without positions."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the layer at random."""
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
        """Apply the layer.

        Args:
            x: Input, one vector per frame.
            mask: True at real frames of the input.
            shorter_mask: True at real frames of the output.
        """
        # Padded frames are zeroed before each convolution, which pads a clip without padded frames with zeros too.
        residual = self.residual_conv(jnp.where(mask[..., None], self.residual_layer_norm(x), 0.0))
        x = self.self_attn_conv(jnp.where(mask[..., None], self.self_attn_layer_norm(x), 0.0))
        x = residual + self.self_attn(x, shorter_mask)
        return x + self.ffn(self.ffn_layer_norm(x))


class Adapter(nnx.Module):
    """Optional layers after the encoder that shorten its output. No published emotion checkpoint has them."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the layers at random."""
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
        """Shorten the sequence; return the states and the mask of their real frames."""
        if self.proj is not None and self.proj_layer_norm is not None:
            x = self.proj_layer_norm(self.proj(x))
        lengths = mask.sum(axis=1)
        for index in range(self.count):  # Each layer changes the length, so the layers can't be scanned.
            lengths = (lengths + 2 * (self.taps // 2) - self.taps) // self.stride + 1
            frames = (x.shape[1] + 2 * (self.stride // 2) - self.taps) // self.stride + 1
            shorter_mask = jnp.arange(frames)[None, :] < lengths[:, None]
            x = layer_at(self.layers, index)(x, mask, shorter_mask)
            mask = shorter_mask
        return x, mask


class Wav2Vec2Bert(nnx.Module):
    """The encoder: from features and their mask to hidden states."""

    def __init__(self, config: Wav2Vec2BertConfig, *, rngs: nnx.Rngs):
        """Initialize the encoder at random."""
        inputs, width = config.feature_projection_input_dim, config.hidden_size
        self.config = config
        self.feature_layer_norm = layer_norm(inputs, config.layer_norm_eps, rngs=rngs)
        self.feature_projection = Linear(inputs, width, rngs=rngs)
        self.layers: Any = stacked(lambda rngs: ConformerLayer(config, rngs=rngs), config.num_hidden_layers, rngs=rngs)
        self.intermediate_ffn = (
            FeedForward(width, config.intermediate_size, "relu", rngs=rngs)
            if config.use_intermediate_ffn_before_adapter
            else nnx.data(None)
        )
        self.adapter = Adapter(config, rngs=rngs) if config.add_adapter else nnx.data(None)
        self.masked_spec_embed = (
            nnx.Param(jax.random.uniform(rngs.params(), (width,), jnp.float32))
            if config.mask_embedding
            else nnx.data(None)
        )

    def __call__(
        self,
        features: Float[Array, "batch frames features"],
        mask: Bool[Array, "batch frames"],
        *,
        hidden_states: bool = False,
        learning: Learning | None = None,
    ) -> AudioStates:
        """Encode padded features.

        Args:
            features: Stacked filter banks, one frame every 20 ms. The values of padded frames have no effect.
            mask: True at real frames.
            hidden_states: Whether to return the projection and the output of each layer.
            learning: What differs in training: dropout, SpecAugment, LayerDrop. None runs the encoder as in inference.
        """
        *entry_keys, layers_key = split_key(None if learning is None else learning.key, 4)
        last, states = scan_layers(
            self.layers,
            lambda layer, x, key: layer(x, mask, key),
            self.embed(features, mask, entry_keys),
            hidden_states=hidden_states,
            learning=None if learning is None else learning._replace(key=layers_key),
            layerdrop=self.config.layerdrop,
        )
        return self.finalize(last, mask, states)

    def embed(
        self,
        features: Float[Array, "batch frames features"],
        mask: Bool[Array, "batch frames"],
        keys: Sequence[Key[Array, ""] | None] = (None, None, None),
    ) -> Float[Array, "batch frames hidden"]:
        """Project the features to the encoder's width and zero the padded frames.

        Args:
            features: Stacked filter banks.
            mask: True at real frames.
            keys: Draw, in training, the dropout of the projection, SpecAugment's masks and the dropout of the result.
        """
        config = self.config
        projection_key, mask_key, input_key = keys
        x = self.feature_projection(self.feature_layer_norm(features))
        x = dropout(x, config.feat_proj_dropout, projection_key)
        if mask_key is not None and config.apply_spec_augment:
            x = self._mask_spans(x, mask, mask_key)
        return jnp.where(mask[..., None], dropout(x, config.hidden_dropout, input_key), 0.0)

    def finalize(
        self,
        x: Float[Array, "batch frames hidden"],
        mask: Bool[Array, "batch frames"],
        states: Float[Array, "states batch frames hidden"] | None = None,
    ) -> AudioStates:
        """Apply what follows the layers: nothing in the published checkpoints, or an adapter that shortens the clip."""
        if self.intermediate_ffn is not None:
            x = x + 0.5 * self.intermediate_ffn(x)
        return AudioStates(*((x, mask) if self.adapter is None else self.adapter(x, mask)), states)

    def _mask_spans(
        self, x: Float[Array, "batch frames width"], mask: Bool[Array, "batch frames"], key: Key[Array, ""]
    ) -> Float[Array, "batch frames width"]:
        """Apply SpecAugment (Park et al. 2019).

        A learned vector replaces spans of frames, and zeros replace spans of channels.
        """
        config, (batch, frames, width) = self.config, x.shape
        time_key, channel_key = jax.random.split(key)
        if config.mask_time_prob > 0 and self.masked_spec_embed is not None:
            spans = masked_spans(
                time_key,
                mask.sum(axis=1),
                frames,
                fraction=config.mask_time_prob,
                span=config.mask_time_length,
                least=config.mask_time_min_masks,
            )
            x = jnp.where(spans[..., None], self.masked_spec_embed[...][None, None], x)
        if config.mask_feature_prob > 0:
            spans = masked_spans(
                channel_key,
                jnp.full(batch, width),
                width,
                fraction=config.mask_feature_prob,
                span=config.mask_feature_length,
                least=config.mask_feature_min_masks,
            )
            x = jnp.where(spans[:, None, :], 0.0, x)
        return x
