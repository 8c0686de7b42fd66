"""Multi-head attention with a padding mask and, for Wav2Vec2-BERT, relative-key positions.

The position bias is q . E[clip(key - query, -left, right) + left] (Shaw et al. 2018, with the asymmetric clipping of
Wav2Vec2-BERT). The queries are projected onto the left + right + 1 vectors of E once, and the products are laid along
the diagonals; a (time, time, head width) table is never built. Queries are attended in blocks, so that memory grows
with time x block and not with time squared: a 160 s clip (8,000 frames) runs on a laptop.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from .layers import contract, dropout

QUERY_BLOCK = 64  # small enough for the scores of a block to stay in a CPU core's cache
HEAD_BLOCK = 500  # the same, for a head at a time


def attend(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    *,
    dtype: jnp.dtype,
    distances: Float[Array, "positions width"] | None = None,
    left: int = 0,
    drop: float = 0.0,
    drop_key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time heads width"]:
    """softmax((query . key + position bias) / sqrt(width)) value over the unmasked keys.

    `dtype` is that of the products; they are accumulated, and the softmax is taken, in float32. `distances` holds the
    vectors of the clipped distances -left .. positions - 1 - left; without it there is no position bias. While
    learning, the weights are dropped at the rate `drop`. The way back computes the scores of a block again.
    """
    batch, time, heads, width = query.shape
    query = query * width**-0.5
    key, value = key.astype(dtype), value.astype(dtype)

    def block(start: jax.Array, queries: Float[Array, "batch block heads width"]) -> jax.Array:
        scores = contract("bqhd,bkhd->bhqk", queries, key)
        if distances is not None:
            scores += _position_bias(contract("bqhd,pd->bhqp", queries, distances), start, time, left)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        if drop_key is not None:
            weights = dropout(weights, drop, jax.random.fold_in(drop_key, start))
        return contract("bhqk,bkhd->bqhd", weights, value)

    if time <= QUERY_BLOCK:
        return block(jnp.int32(0), query)
    blocks = -(-time // QUERY_BLOCK)
    query = jnp.pad(query, ((0, 0), (0, blocks * QUERY_BLOCK - time), (0, 0), (0, 0)))
    query = query.reshape(batch, blocks, QUERY_BLOCK, heads, width).swapaxes(0, 1)
    starts = jnp.arange(blocks, dtype=jnp.int32) * QUERY_BLOCK
    attended = jax.lax.map(jax.checkpoint(lambda each: block(*each)), (starts, query))
    return attended.swapaxes(0, 1).reshape(batch, blocks * QUERY_BLOCK, heads, width)[:, :time]


def attend_everywhere(
    query: Float[Array, "batch queries heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    *,
    dtype: jnp.dtype,
) -> Float[Array, "batch queries heads width"]:
    """softmax(query . key / sqrt(width)) value over all keys, as in an encoder whose input is never padded.

    A CPU takes one head and HEAD_BLOCK queries at a time: plain matrix products whose scores stay in its cache.
    """

    def by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        batch, queries, heads, width = query.shape
        block = max(size for size in range(1, HEAD_BLOCK + 1) if queries % size == 0)

        def rows(x: jax.Array) -> jax.Array:
            return x.swapaxes(1, 2).reshape(batch * heads, -1, width)

        def head(each: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            query, key, value = each

            def part(query: jax.Array) -> jax.Array:
                scores = contract("qd,kd->qk", query, key)
                weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
                # Dividing what comes out, and not each weight, saves a pass over the scores.
                return contract("qk,kd->qd", weights, value) / weights.sum(axis=-1, keepdims=True)

            return jax.lax.map(part, query.reshape(-1, block, width))

        each = rows(query * width**-0.5), rows(key.astype(dtype)), rows(value.astype(dtype))
        return jax.lax.map(head, each).reshape(batch, heads, queries, width).swapaxes(1, 2)

    def by_block(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attend(query, key, value, jnp.ones(key.shape[:2], bool), dtype=dtype)

    return jax.lax.platform_dependent(query, key, value, cpu=by_head, default=by_block)


def _position_bias(
    projected: Float[Array, "batch heads block positions"], start: jax.Array, time: int, left: int
) -> Float[Array, "batch heads block time"]:
    """Pick for each query of a block, the first at `start`, and each key the product with their distance's vector.

    Outside a band around the diagonal the distance is clipped: one column serves all keys before the band, one all keys
    after it. Inside, row r of the band is the row of products shifted right by r, which is a reshape of padded rows.
    """
    *outer, block, positions = projected.shape
    right = positions - 1 - left
    first, last = projected[..., :1], projected[..., -1:]
    padded = jnp.concatenate(
        [
            jnp.broadcast_to(first, (*outer, block, block - 1)),
            projected,
            jnp.broadcast_to(last, (*outer, block, block - 1)),
        ],
        axis=-1,
    )
    row = padded.shape[-1]
    shifted = padded.reshape(*outer, block * row)[..., block - 1 : block - 1 + block * (row - 1)]
    band = shifted.reshape(*outer, block, row - 1)[..., : block + positions - 1]
    # Keys from -left to time + block + right, so that the band of every block lies inside.
    keys = jnp.arange(-left, time + block + right, dtype=jnp.int32)
    bias = jnp.where((keys < start)[None, None, None, :], first, last)
    bias = jax.lax.dynamic_update_slice(bias, band, (0, 0, 0, start))
    return bias[..., left : left + time]
