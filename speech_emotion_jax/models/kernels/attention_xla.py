"""Attention in plain XLA, a block of queries at a time, and its gradient.

This is the form for GPUs, for programs that XLA divides over devices, and for every platform's gradient. It has no
platform's own instructions and no loop over clips or heads, so XLA can divide it over devices.

Memory traffic decides its time on an accelerator. The scores of a block are written once by a matrix product in
float32, read once by the softmax and read again in the products' dtype. The position bias needs no array of the scores'
size: outside a band around the diagonal it is one of two numbers a query, which the softmax adds as it reads. Only the
band itself is added in place, to QUERY_BLOCK queries at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ...runtime.compat import varying_axes
from ..layers import contract, dropout

QUERY_BLOCK = 64  # Least number of queries in a block, and those whose band is added at once.
SCORES = 1 << 27  # Upper bound of a block's scores on an accelerator: 0.5 GB in float32.


class _Blocks(NamedTuple):
    """How the queries of a call are divided.

    Attributes:
        number: Number of blocks.
        rows: Queries of a block, a multiple of `piece`.
        piece: Queries whose band of the position bias is added at once.
    """

    number: int
    rows: int
    piece: int


def attend_in_blocks(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"] | None,
    *,
    dtype: jnp.dtype,
    left: int,
    scores: int = SCORES,
    drop: float = 0.0,
    drop_key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time heads width"]:
    """Compute `attention.attend` in plain XLA.

    Args:
        query: Queries, not yet scaled.
        key: Keys.
        value: Values.
        mask: True where a key may be attended to.
        distances: Vectors of the clipped distances -left .. positions - 1 - left; None for no position bias.
        dtype: Dtype of the matrix products. They accumulate in float32, and the softmax is float32.
        left: Largest distance to an earlier key that has a vector of its own.
        scores: Upper bound of the scores computed at once. A block has at least QUERY_BLOCK queries.
        drop: Probability that a weight is dropped.
        drop_key: Key of the dropped weights; None drops nothing.

    Returns:
        The attended values, float32.
    """
    batch, time, heads, width = query.shape
    blocks = _blocks(batch, time, heads, scores)
    key, value = (_heads_first(x.astype(dtype)) for x in (key, value))

    def attended(each: tuple[jax.Array, jax.Array]) -> jax.Array:
        start, queries = each
        weights = jax.nn.softmax(_scores(queries, key, mask, distances, start, blocks.piece, left), axis=-1)
        return contract("bhqk,bhkd->bhqd", _dropped(weights, drop, drop_key, start), value)

    return _joined(jax.lax.map(attended, _divided(blocks, query * width**-0.5)), time)


def attention_gradients(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"] | None,
    gradient: Float[Array, "batch time heads width"],
    *,
    dtype: jnp.dtype,
    left: int,
    scores: int = SCORES,
    drop: float = 0.0,
    drop_key: Key[Array, ""] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Compute the gradients of `attend_in_blocks`.

    The weights of each block are computed again, so no (time, time) array exists for more than one block of queries.
    The products take `dtype` and accumulate in float32; so do the sums over blocks. With P the weights, G the gradient
    of the weights and S the scores, dS = P (G - sum over keys of P G).

    Args:
        query: As in `attend_in_blocks`, with all arguments not named here.
        key: Keys.
        value: Values.
        mask: True where a key may be attended to.
        distances: Vectors of the distances, or None.
        gradient: Gradient of the attended values.
        dtype: Dtype of the matrix products.
        left: Largest distance to an earlier key that has a vector of its own.
        scores: Upper bound of the scores computed at once.
        drop: Probability that a weight is dropped.
        drop_key: The key that the attention itself was given.

    Returns:
        The gradients of query, key, value and distances, in their dtypes; None for distances that are None.
    """
    batch, time, heads, width = query.shape
    blocks = _blocks(batch, time, heads, scores)
    keys, values = (_heads_first(x.astype(dtype)) for x in (key, value))
    scale = width**-0.5

    def of_block(sums: tuple[jax.Array, ...], each: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        start, queries, gradients = each
        weights = jax.nn.softmax(_scores(queries, keys, mask, distances, start, blocks.piece, left), axis=-1)
        gradients = gradients.astype(dtype)
        of_values = contract("bhqk,bhqd->bhkd", _dropped(weights, drop, drop_key, start), gradients)
        of_weights = _dropped(contract("bhqd,bhkd->bhqk", gradients, values), drop, drop_key, start)
        of_scores = weights * (of_weights - (weights * of_weights).sum(axis=-1, keepdims=True))
        of_scores = jnp.where(mask[:, None, None, :], of_scores, 0.0)  # not so of itself in a clip that is all padding
        of_keys = contract("bhqk,bhqd->bhkd", of_scores, queries.astype(dtype))
        of_queries = contract("bhqk,bhkd->bhqd", of_scores, keys)
        added = [of_keys, of_values]
        if distances is not None:
            of_projected = _projected_gradient(of_scores, start, blocks.piece, len(distances), left)
            of_queries += contract("bhqp,pd->bhqd", of_projected, distances)
            added.append(contract("bhqp,bhqd->pd", of_projected, queries.astype(distances.dtype)))
        return tuple(map(jnp.add, sums, added)), of_queries

    sums = [_zeros(keys), _zeros(values)] + ([] if distances is None else [_zeros(distances)])
    each = (*_divided(blocks, query * scale), _divided(blocks, gradient)[1])
    (of_keys, of_values, *of_distances), of_queries = jax.lax.scan(of_block, tuple(sums), each)
    return (
        (_joined(of_queries, time) * scale).astype(query.dtype),
        of_keys.swapaxes(1, 2).astype(key.dtype),
        of_values.swapaxes(1, 2).astype(value.dtype),
        None if distances is None else of_distances[0].astype(distances.dtype),
    )


def _blocks(batch: Any, time: int, heads: int, scores: int) -> _Blocks:
    """Divide the queries evenly, within `scores`. A symbolic batch, of a program to be exported, has small blocks."""
    piece = min(QUERY_BLOCK, time)
    fitting = scores // (batch * heads * time) if isinstance(batch, int) else 0
    count = math.ceil(time / max(piece, fitting // piece * piece))
    return _Blocks(count, math.ceil(time / (count * piece)) * piece, piece)


def _heads_first(x: Float[Array, "batch time heads width"]) -> Float[Array, "batch heads time width"]:
    return x.swapaxes(1, 2)


def _divided(blocks: _Blocks, x: Float[Array, "batch time heads width"]) -> tuple[jax.Array, jax.Array]:
    """Return the first frame of each block, and the blocks as (blocks, batch, heads, rows, width), zeros at the end."""
    batch, time, heads, width = x.shape
    x = jnp.pad(_heads_first(x), ((0, 0), (0, 0), (0, blocks.number * blocks.rows - time), (0, 0)))
    x = x.reshape(batch, heads, blocks.number, blocks.rows, width)
    return jnp.arange(blocks.number, dtype=jnp.int32) * blocks.rows, jnp.moveaxis(x, 2, 0)


def _joined(x: Float[Array, "blocks batch heads rows width"], time: int) -> Float[Array, "batch time heads width"]:
    count, batch, heads, rows, width = x.shape
    x = jnp.moveaxis(x, 0, 2).reshape(batch, heads, count * rows, width)
    return x[:, :, :time].swapaxes(1, 2)


def _zeros(like: jax.Array) -> jax.Array:
    """Return float32 zeros of an array's shape which, inside a `shard_map`, differ between the devices as it does."""
    zeros = jnp.zeros(like.shape, jnp.float32)
    return jax.lax.pcast(zeros, tuple(varying_axes(like)), to="varying")


def _dropped(weights: jax.Array, drop: float, drop_key: jax.Array | None, start: jax.Array) -> jax.Array:
    return weights if drop_key is None else dropout(weights, drop, jax.random.fold_in(drop_key, start))


def _scores(
    queries: Float[Array, "batch heads rows width"],
    keys: Float[Array, "batch heads time width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"] | None,
    start: jax.Array,
    piece: int,
    left: int,
) -> Float[Array, "batch heads rows time"]:
    """Compute the scores of a block of scaled queries, the first of which is frame `start`."""
    scores = contract("bhqd,bhkd->bhqk", queries, keys)
    if distances is not None:
        projected = contract("bhqd,pd->bhqp", queries, distances)
        positions, (rows, time) = len(distances), scores.shape[2:]
        before, after = projected[..., :1], projected[..., -1:]
        is_early = (jnp.arange(positions) < left)[None, None, None]
        for first, place, shift in _windows(start, rows, time, piece, positions, left):
            own, own_before, own_after = (x[:, :, first : first + piece] for x in (projected, before, after))
            near = _sheared(own - jnp.where(is_early, own_before, own_after))
            window = (*scores.shape[:2], piece, min(time, near.shape[-1]))
            near = jnp.pad(near, [(0, 0)] * 3 + [(near.shape[-1], near.shape[-1])])
            near = jax.lax.dynamic_slice_in_dim(near, shift, window[-1], axis=-1)
            at = (jnp.int32(0), jnp.int32(0), jnp.int32(first), place)
            scores = jax.lax.dynamic_update_slice(scores, jax.lax.dynamic_slice(scores, at, window) + near, at)
        scores += jnp.where(_is_before(start, rows, time)[None, None], before, after)
    return jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)


def _projected_gradient(
    of_scores: Float[Array, "batch heads rows time"], start: jax.Array, piece: int, positions: int, left: int
) -> Float[Array, "batch heads rows positions"]:
    """Sum the gradient of a block's scores over the keys of each clipped distance."""
    rows, time = of_scores.shape[2:]
    pieces = []
    for first, place, shift in _windows(start, rows, time, piece, positions, left):
        whole = piece + positions - 1
        window = (*of_scores.shape[:2], piece, min(time, whole))
        at = (jnp.int32(0), jnp.int32(0), jnp.int32(first), place)
        near = jax.lax.dynamic_slice(of_scores, at, window)
        near = jnp.pad(near, [(0, 0)] * 3 + [(whole, whole)])
        near = jax.lax.dynamic_slice_in_dim(near, 2 * whole - shift, whole, axis=-1)
        pieces.append(_unsheared(near, positions))
    band = jnp.concatenate(pieces, axis=2)
    number = jnp.arange(positions)[None, None, None]
    is_early, is_before = number < left, _is_before(start, rows, time)[None, None]

    def total(x: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.where(where, x, 0.0).sum(axis=-1, keepdims=True)

    before = total(of_scores, is_before) - total(band, is_early)
    after = total(of_scores, ~is_before) - total(band, ~is_early)
    return band + jnp.where(number == 0, before, 0.0) + jnp.where(number == positions - 1, after, 0.0)


def _is_before(start: jax.Array, rows: int, time: int) -> Bool[Array, "rows time"]:
    return jnp.arange(time)[None] < start + jnp.arange(rows)[:, None]


def _windows(
    start: jax.Array, rows: int, time: int, piece: int, positions: int, left: int
) -> Iterator[tuple[int, jax.Array, jax.Array]]:
    """Yield where the band of each piece lies among the keys.

    Yields:
        The piece's first query in the block; the first key of its window, which lies inside the clip; and where the
        window begins in the sheared band with its own width of zeros on both sides.
    """
    whole = piece + positions - 1
    for first in range(0, rows, piece):
        wanted = start + first - left
        place = jnp.clip(wanted, 0, time - min(time, whole))
        yield first, place, whole + place - wanted


def _sheared(x: Float[Array, "*outer rows columns"]) -> Float[Array, "*outer rows wider"]:
    """Move row i right by i, with zeros beside it; the result has rows - 1 more columns."""
    *outer, rows, columns = x.shape
    x = jnp.pad(x, [(0, 0)] * (len(outer) + 1) + [(0, rows)]).reshape(*outer, rows * (columns + rows))
    return x[..., : rows * (rows + columns - 1)].reshape(*outer, rows, rows + columns - 1)


def _unsheared(x: Float[Array, "*outer rows wider"], columns: int) -> Float[Array, "*outer rows columns"]:
    """Move row i left by i and return the first `columns` columns: the transpose of `_sheared`."""
    *outer, rows, wider = x.shape
    x = jnp.pad(x.reshape(*outer, rows * wider), [(0, 0)] * len(outer) + [(0, rows)])
    return x.reshape(*outer, rows, columns + rows)[..., :columns]
