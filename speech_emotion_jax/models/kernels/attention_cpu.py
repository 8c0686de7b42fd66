"""Relative-key attention for a CPU: a few heads and many queries at a time, with few passes over their scores.

A CPU's matrix products are fast from some hundred rows on; then the passes over the scores take as long as the
products. The position bias costs one pass that is needed for the mask anyway: outside a band around the diagonal it is
one of two numbers a query. The band's difference from them is added in place, in pieces of a few queries. Each piece is
a parallelogram, which a reshape of padded rows lays along the diagonal.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..layers import contract

QUERIES = 768  # Upper bound of a head's queries at a time. Short clips are not divided, long ones evenly.
SCORES = 2_000_000  # Upper bound of the scores of several heads at a time, 8 MB; HEADS heads are always allowed.
HEADS = 2
PIECE = 64  # Queries whose band is added at once.


def attend_cpu(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"],
    *,
    dtype: jnp.dtype,
    left: int,
) -> Float[Array, "batch time heads width"]:
    """Compute `attention.attend`, without a gradient.

    Args:
        query: Queries, not yet scaled.
        key: Keys.
        value: Values.
        mask: True where a key may be attended to.
        distances: Vectors of the clipped distances -left .. positions - 1 - left.
        dtype: Dtype of the matrix products. They accumulate in float32, and the softmax is float32.
        left: Largest distance to an earlier key that has a vector of its own.

    Returns:
        The attended values, float32.
    """
    batch, time, heads, width = query.shape
    positions = len(distances)
    right = positions - 1 - left
    blocks = -(-time // QUERIES)
    rows = -(-time // (blocks * PIECE)) * PIECE
    padding = blocks * rows - time
    fitting = max(HEADS, SCORES // (rows * (left + time + padding + right)))
    together = max(count for count in range(1, min(heads, fitting) + 1) if heads % count == 0)
    groups = batch * heads // together

    def by_heads(x: jax.Array, before: int, after: int) -> jax.Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (before, after), (0, 0)))

    def of_blocks(x: jax.Array) -> jax.Array:
        """Reshape (batch, heads, padded time, n) to (groups x blocks, heads together, rows, n)."""
        x = x.reshape(groups, together, blocks, rows, x.shape[-1])
        return x.swapaxes(1, 2).reshape(groups * blocks, together, rows, x.shape[-1])

    query = by_heads(query * width**-0.5, 0, padding)
    # Before the first key and after the last one there is room for the band of every query.
    key, value = (
        by_heads(x.astype(dtype), left, padding + right).reshape(groups, together, -1, width) for x in (key, value)
    )
    mask = jnp.pad(mask, ((0, 0), (left, padding + right)))

    projected = contract("bhqd,pd->bhqp", query, distances)
    before, after = projected[..., :1], projected[..., -1:]
    band = projected - jnp.where(jnp.arange(positions)[None, None, None] < left, before, after)
    queries, before, after, band = (of_blocks(x) for x in (query, before, after, band))
    band = _sheared(band.reshape(*band.shape[:2], rows // PIECE, PIECE, positions))

    def attended(each: tuple[jax.Array, ...]) -> jax.Array:
        number, queries, before, after, band = each
        group, first = number // blocks, number % blocks * rows
        scores = contract("hqd,hkd->hqk", queries, key[group])
        for piece in range(rows // PIECE):
            at = (0, piece * PIECE, first + piece * PIECE)
            beside = jax.lax.dynamic_slice(scores, at, (together, PIECE, PIECE + positions - 1))
            scores = jax.lax.dynamic_update_slice(scores, beside + band[:, piece], at)
        keys = jnp.arange(scores.shape[-1])[None, None]
        own = first + left + jnp.arange(rows)[None, :, None]
        scores += jnp.where(keys < own, before, after)
        shown = mask[group * together // heads][None, None]
        scores = jnp.where(shown, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
        # Dividing the result, and not each weight, saves a pass over the scores.
        return contract("hqk,hkd->hqd", weights, value[group]) / weights.sum(axis=-1, keepdims=True)

    out = jax.lax.map(attended, (jnp.arange(groups * blocks), queries, before, after, band))
    out = out.reshape(groups, blocks, together, rows, width).swapaxes(1, 2)
    return out.reshape(batch, heads, blocks * rows, width)[:, :, :time].swapaxes(1, 2)


def _sheared(x: Float[Array, "*outer rows columns"]) -> Float[Array, "*outer rows wider"]:
    """Move row i right by i, with zeros beside it; the result has rows - 1 more columns."""
    *outer, rows, columns = x.shape
    x = jnp.pad(x, [(0, 0)] * (len(outer) + 1) + [(0, rows)]).reshape(*outer, -1)
    return x[..., : rows * (rows + columns - 1)].reshape(*outer, rows, rows + columns - 1)
