"""Multi-head attention with a padding mask and, for Wav2Vec2-BERT, relative-key positions.

The position bias is q . E[clip(key - query, -left, right) + left] (Shaw et al. 2018, with the asymmetric clipping of
Wav2Vec2-BERT). The queries are projected onto the left + right + 1 vectors of E once, and the products are laid along
the diagonals; a (time, time, head width) table is never built. Queries are attended in blocks, so that memory grows
with time x block and not with time squared: a 160 s clip (8,000 frames) runs on a laptop.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from .kernels.attention_cpu import attend_cpu
from .kernels.attention_gpu import attend_gpu, can_be_made
from .kernels.attention_tpu import attend_tpu
from .kernels.pallas import kernels_enabled, knows_its_chips
from .layers import contract, dropout

QUERY_BLOCK = 64  # small enough for the scores of a block to stay in a CPU core's cache
HEAD_BLOCK = 500  # the same, for a head at a time
KEYS_SUMMED = 150  # whose weighted values a product adds up, of an input that is never padded


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
    learning, the weights are dropped at the rate `drop`. What is computed is the same on all platforms, and the way
    back everywhere that of `attend_in_blocks`.
    """
    dropped = drop_key is not None and drop > 0
    if distances is None or dropped or query.shape[1] <= QUERY_BLOCK:
        return attend_in_blocks(
            query, key, value, mask, distances, dtype=dtype, left=left, drop=drop, drop_key=drop_key
        )
    return _relative(dtype, left, query, key, value, mask, distances)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _relative(dtype: jnp.dtype, left: int, *inputs: jax.Array) -> jax.Array:
    """Attention with relative keys, by what is fastest on the platform that is compiled for.

    A symbolic batch is that of a program to be exported, for one device. The kernels need a number for their grids.
    """
    settings = {"dtype": dtype, "left": left}
    symbolic = not isinstance(inputs[0].shape[0], int)
    by_kernel = kernels_enabled() and knows_its_chips() and not symbolic
    return jax.lax.platform_dependent(
        *inputs,
        cpu=partial(attend_cpu if symbolic or _on_one_device() else attend_in_blocks, **settings),
        cuda=partial(attend_gpu if by_kernel and can_be_made() else attend_in_blocks, **settings),
        tpu=partial(attend_tpu if by_kernel else attend_in_blocks, **settings),
        default=partial(attend_in_blocks, **settings),
    )


def _on_one_device() -> bool:
    """Whether what is traced is one device's own program: there is but one, or it is inside a `shard_map` or `pmap`.

    A loop over clips and heads can't be divided over devices without moving them.
    """
    return bool(jax.sharding.get_abstract_mesh().manual_axes) or jax.device_count() == 1


@_relative.defjvp
def _derived(
    dtype: jnp.dtype, left: int, inputs: tuple[jax.Array, ...], changes: tuple[jax.Array | np.ndarray, ...]
) -> tuple[jax.Array, jax.Array]:
    *learning, mask, distances = inputs

    def plain(query: jax.Array, key: jax.Array, value: jax.Array, distances: jax.Array) -> jax.Array:
        return attend_in_blocks(query, key, value, mask, distances, dtype=dtype, left=left)

    *moved, _, distances_moved = changes  # a mask doesn't change: its own is NumPy's, of JAX's type float0
    change = jax.jvp(plain, (*learning, distances), (*moved, distances_moved))[1]
    return _relative(dtype, left, *inputs), change


def attend_in_blocks(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"] | None,
    *,
    dtype: jnp.dtype,
    left: int,
    drop: float = 0.0,
    drop_key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time heads width"]:
    """As `attend`, a block of queries of all heads at a time. The way back computes the scores of a block again."""
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
                # Added up one after the other, over a thousand keys of like weight lose a digit in float32.
                some = [slice(first, first + KEYS_SUMMED) for first in range(0, len(value), KEYS_SUMMED)]
                attended = sum(contract("qk,kd->qd", weights[:, keys], value[keys]) for keys in some)
                # Dividing what comes out, and not each weight, saves a pass over the scores.
                return attended / weights.sum(axis=-1, keepdims=True)

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
    bias = jax.lax.dynamic_update_slice_in_dim(bias, band, start, axis=-1)
    return bias[..., left : left + time]
