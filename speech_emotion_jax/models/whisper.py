"""Whisper (Radford et al. 2022): an encoder of 30 s of log-mel and a decoder that writes the transcript.

    log-mel (batch, 3000, bins) ─ encoder ─► (batch, 1500, width) ─ cross_kv ─► keys, values of each decoder layer
    tokens, cache ─ decoder ─► states, cache ─ logits ─► (..., vocabulary)

The decoder is a pure function with an explicit cache of fixed shape, which it takes and returns. A row of its batch is
one hypothesis. Several hypotheses (beams) may share a recording, whose keys and values are then stored once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ..config import WhisperConfig
from .attention import attend_everywhere
from .layers import ACTIVATIONS, Linear, contract, layer_norm, scan_layers, stacked, unstack

EPSILON = 1e-5  # Of all layer norms. config.json does not state it.


class CrossKV(NamedTuple):
    """Keys and values of cross-attention for a batch of recordings, one pair per decoder layer."""

    keys: tuple[Float[Array, "batch heads width frames"], ...]
    values: tuple[Float[Array, "batch heads frames width"], ...]


class Cache(NamedTuple):
    """Keys and values of self-attention for all tokens so far, one pair per decoder layer.

    Rows and heads share an axis, so that XLA can write a token into the array that the matrix products read. With
    separate axes a CPU copies the whole cache for every token.
    """

    keys: tuple[Float[Array, "rowheads length width"], ...]
    values: tuple[Float[Array, "rowheads length width"], ...]


class Decoded(NamedTuple):
    """What the decoder returns.

    Attributes:
        states: One vector per decoded token, float32.
        cache: The cache with the decoded tokens added.
        attention: Attention weights of each layer over the recording, softmax over frames.
    """

    states: Float[Array, "rows tokens width"]
    cache: Cache
    attention: tuple[Float[Array, "batch heads queries frames"], ...]


class Convolution(nnx.Module):
    """Convolution over time with 3 taps, zero-padded by a frame on each side; the kernel is (taps, inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        """Initialize the kernel at random and the bias with zeros."""
        self.stride = stride
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "batch frames inputs"]) -> Float[Array, "batch outframes outputs"]:
        """Convolve over time."""
        taps, inputs, outputs = self.kernel[...].shape
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        frames = x.shape[1]
        windows = [padded[:, tap : tap + frames : self.stride] for tap in range(taps)]
        kernel = self.kernel[...].reshape(taps * inputs, outputs)
        return contract("bti,io->bto", jnp.concatenate(windows, axis=-1), kernel) + self.bias[...][None, None]


class Attention(nnx.Module):
    """The projections of an attention layer. Keys have no bias."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        """Initialize the projections at random."""
        self.heads = heads
        self.q_proj = Linear(width, width, rngs=rngs)
        self.k_proj = Linear(width, width, bias=False, rngs=rngs)
        self.v_proj = Linear(width, width, rngs=rngs)
        self.out_proj = Linear(width, width, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the matrices."""
        return self.q_proj.kernel[...].dtype

    def split(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time heads headwidth"]:
        """Split the last axis into heads."""
        return x.reshape(*x.shape[:-1], self.heads, -1)


class FeedForward(nnx.Module):
    """LayerNorm and two linear layers with an activation between them, added to the input."""

    def __init__(self, width: int, inner: int, activation: str, *, rngs: nnx.Rngs):
        """Initialize the layers at random."""
        self.activation = activation
        self.final_layer_norm = layer_norm(width, EPSILON, rngs=rngs)
        self.fc1 = Linear(width, inner, rngs=rngs)
        self.fc2 = Linear(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """Apply the network."""
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm(x))))


class EncoderLayer(nnx.Module):
    """x + attention(LayerNorm(x)), then the feed-forward network."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        """Initialize the layer at random."""
        width = config.d_model
        self.self_attn_layer_norm = layer_norm(width, EPSILON, rngs=rngs)
        self.self_attn = Attention(width, config.encoder_attention_heads, rngs=rngs)
        self.feed_forward = FeedForward(width, config.encoder_ffn_dim, config.activation_function, rngs=rngs)

    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch frames width"]:
        """Apply the layer."""
        own, y = self.self_attn, self.self_attn_layer_norm(x)
        query, key, value = (own.split(project(y)) for project in (own.q_proj, own.k_proj, own.v_proj))
        attended = attend_everywhere(query, key, value, dtype=own.dtype)
        return self.feed_forward(x + own.out_proj(attended.reshape(x.shape)))


class WhisperEncoder(nnx.Module):
    """The encoder: from 30 s of log-mel to one state every 20 ms."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        """Initialize the encoder at random."""
        width = config.d_model
        self.activation = config.activation_function
        self.conv1 = Convolution(config.num_mel_bins, width, stride=1, rngs=rngs)
        self.conv2 = Convolution(width, width, stride=2, rngs=rngs)
        self.embed_positions = nnx.Param(
            nnx.initializers.normal(0.02)(rngs.params(), (config.max_source_positions, width), jnp.float32)
        )
        self.layers = stacked(lambda rngs: EncoderLayer(config, rngs=rngs), config.encoder_layers, rngs=rngs)
        self.layer_norm = layer_norm(width, EPSILON, rngs=rngs)

    def __call__(self, log_mel: Float[Array, "batch frames bins"]) -> Float[Array, "batch states width"]:
        """Encode log-mel of shape (batch, 2 · positions, bins); OpenAI's models turn 3,000 frames into 1,500 states.

        There is no mask: Whisper was trained on clips that were padded to 30 s with silence, and attends to the
        padding.
        """
        return self.layer_norm(
            scan_layers(self.layers, lambda layer, x, _: layer(x), self.embed(log_mel), hidden_states=False)[0]
        )

    def embed(self, log_mel: Float[Array, "batch frames bins"]) -> Float[Array, "batch states width"]:
        """Compute the input of the layers: two convolutions, then positions are added."""
        activation = ACTIVATIONS[self.activation]
        x = activation(self.conv2(activation(self.conv1(log_mel))))
        return x + self.embed_positions[...][None]


class DecoderLayer(nnx.Module):
    """x + self-attention, + cross-attention, then the feed-forward network; each takes its input normalised."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        """Initialize the layer at random."""
        width, heads = config.d_model, config.decoder_attention_heads
        self.self_attn_layer_norm = layer_norm(width, EPSILON, rngs=rngs)
        self.self_attn = Attention(width, heads, rngs=rngs)
        self.encoder_attn_layer_norm = layer_norm(width, EPSILON, rngs=rngs)
        self.encoder_attn = Attention(width, heads, rngs=rngs)
        self.feed_forward = FeedForward(width, config.decoder_ffn_dim, config.activation_function, rngs=rngs)

    def cross_kv(
        self, encoded: Float[Array, "batch frames width"]
    ) -> tuple[Float[Array, "batch heads headwidth frames"], Float[Array, "batch heads frames headwidth"]]:
        """Compute the keys and values of cross-attention, laid out for one query at a time."""
        cross = self.encoder_attn
        key, value = cross.split(cross.k_proj(encoded)), cross.split(cross.v_proj(encoded))
        return key.astype(cross.dtype).transpose(0, 2, 3, 1), value.astype(cross.dtype).transpose(0, 2, 1, 3)

    def attend_to_text(
        self,
        x: Float[Array, "rows tokens width"],
        keys: Float[Array, "rowheads length headwidth"],
        values: Float[Array, "rowheads length headwidth"],
        index: Int[Array, ""],
        visible: Bool[Array, "rows tokens length"],
    ) -> tuple[
        Float[Array, "rows tokens width"],
        Float[Array, "rowheads length headwidth"],
        Float[Array, "rowheads length headwidth"],
    ]:
        """Add self-attention over the cache to `x`.

        Args:
            x: One vector per new token.
            keys: The keys in the cache.
            values: The values in the cache.
            index: Place of the first new token in the cache.
            visible: True where a new token may attend to a place of the cache.

        Returns:
            The sum, and the keys and values with those of the new tokens written at `index`.
        """
        own, y = self.self_attn, self.self_attn_layer_norm(x)
        rows, tokens, _ = x.shape

        def by_head(projected: jax.Array) -> jax.Array:
            return own.split(projected).swapaxes(1, 2).reshape(rows * own.heads, tokens, -1)

        query, key, value = (by_head(project(y)) for project in (own.q_proj, own.k_proj, own.v_proj))
        at = (jnp.int32(0), index, jnp.int32(0))
        keys = jax.lax.dynamic_update_slice(keys, key.astype(keys.dtype), at)
        values = jax.lax.dynamic_update_slice(values, value.astype(values.dtype), at)
        scores = contract("gtd,gld->gtl", query * query.shape[-1] ** -0.5, keys)
        scores = jnp.where(jnp.repeat(visible, own.heads, axis=0), scores, jnp.finfo(jnp.float32).min)
        attended = contract("gtl,gld->gtd", jax.nn.softmax(scores), values)
        attended = attended.reshape(rows, own.heads, tokens, -1).swapaxes(1, 2)
        return x + own.out_proj(attended.reshape(x.shape)), keys, values

    def attend_to_recording(
        self,
        x: Float[Array, "rows tokens width"],
        keys: Float[Array, "batch heads headwidth frames"],
        values: Float[Array, "batch heads frames headwidth"],
    ) -> tuple[Float[Array, "rows tokens width"], Float[Array, "batch heads queries frames"]]:
        """Add cross-attention to `x`, and return the sum and the attention weights.

        Rows of one recording are adjacent. The queries of a recording are the tokens of its rows, one row after the
        other.
        """
        cross, batch = self.encoder_attn, keys.shape[0]
        query = cross.split(cross.q_proj(self.encoder_attn_layer_norm(x)))
        query = query.reshape(batch, -1, *query.shape[2:]) * query.shape[-1] ** -0.5
        attention = jax.nn.softmax(contract("bqhd,bhdf->bhqf", query, keys))
        attended = contract("bhqf,bhfd->bqhd", attention, values)
        return x + cross.out_proj(attended.reshape(x.shape)), attention


class WhisperDecoder(nnx.Module):
    """The decoder: from token ids to states, from which `logits` scores the next token."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        """Initialize the decoder at random."""

        def table(rows: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, config.d_model), jnp.float32))

        self.depth = config.decoder_layers
        self.embed_tokens = table(config.vocab_size)
        self.embed_positions = table(config.max_target_positions)
        # A stack until `unstack` is called, then a list.
        self.layers: Any = stacked(lambda rngs: DecoderLayer(config, rngs=rngs), config.decoder_layers, rngs=rngs)
        self.layer_norm = layer_norm(config.d_model, EPSILON, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "rows tokens"],
        index: int | Int[Array, ""],
        padding: Int[Array, " rows"],
        cache: Cache,
        cross_kv: CrossKV,
    ) -> Decoded:
        """Decode the tokens from place `index` on, given the cache of those before. Call `unstack` first.

        Args:
            tokens: The new token ids.
            index: Place of the first new token.
            padding: Number of places before the text of each row. They are not attended to, and positions count from
                their end.
            cache: Keys and values of the tokens so far, with room for the new ones.
            cross_kv: Keys and values of the recordings. A recording may have several adjacent rows.
        """
        length = cache.keys[0].shape[1]
        places = index + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        x = self.embed(tokens, jnp.maximum(places[None] - padding[:, None], 0))
        slots = jnp.arange(length, dtype=jnp.int32)[None, None]
        visible = (slots <= places[None, :, None]) & (slots >= padding[:, None, None])
        keys, values, attention = [], [], []
        for layer, own_keys, own_values, cross_keys, cross_values in zip(self.layers, *cache, *cross_kv, strict=True):
            x, own_keys, own_values = layer.attend_to_text(x, own_keys, own_values, places[0], visible)
            x, attended = layer.attend_to_recording(x, cross_keys, cross_values)
            x = layer.feed_forward(x)
            keys.append(own_keys)
            values.append(own_values)
            attention.append(attended)
        return Decoded(self.layer_norm(x), Cache(tuple(keys), tuple(values)), tuple(attention))

    def unstack(self) -> None:
        """Replace the stack of layers by a list. Decoding token by token would copy the stack for every token."""
        self.layers = unstack(self.layers)

    def empty_cache(self, rows: int, length: int) -> Cache:
        """Return a cache of zeros with room for `length` tokens in each row."""
        own = self.layers[0].self_attn
        width, dtype = own.q_proj.kernel[...].shape[0] // own.heads, own.dtype
        empty = (jnp.zeros((rows * own.heads, length, width), dtype),) * self.depth
        return Cache(empty, empty)

    def embed(
        self, tokens: Int[Array, "rows tokens"], positions: Int[Array, "rows tokens"]
    ) -> Float[Array, "rows tokens width"]:
        """Add the embeddings of tokens and positions, in float32."""
        return (self.embed_tokens[...][tokens] + self.embed_positions[...][positions]).astype(jnp.float32)

    def logits(self, states: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Score the next token by products with the token embeddings."""
        return contract("...w,vw->...v", states, self.embed_tokens[...])


class Whisper(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        """Initialize the model at random."""
        self.config = config
        self.encoder = WhisperEncoder(config, rngs=rngs)
        self.decoder = WhisperDecoder(config, rngs=rngs)

    def cross_kv(self, encoded: Float[Array, "batch frames width"]) -> CrossKV:
        """Compute what the decoder needs of encoded recordings, once for all tokens."""
        keys, values = zip(*(layer.cross_kv(encoded) for layer in self.decoder.layers), strict=True)
        return CrossKV(keys, values)
