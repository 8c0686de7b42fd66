"""Relative-key attention for a TPU: one kernel that reads queries, keys and values once and writes the result once.

The arrays have the layout of the linear layers, (batch, time, heads x width). A block of 128 lanes holds two heads of
64, so nothing is transposed around the kernel. A step of the grid attends a block of queries to all keys of its heads,
up to COLUMNS at a time, with a running softmax. The products of the queries and the distances' vectors are rolled, row
i by i: the product of a key is then in the column of its frame modulo their number, padded to whole registers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from ...runtime.compat import shape_like
from .pallas import Work, added_to_scores, bytes_moved, dot, on_each_chip, padded

SUBLANES, LANES = 8, 128  # Shape of a TPU's vector register.
ROWS, COLUMNS = 640, 3072  # Upper bounds of queries, and of bytes of a row of keys, that fit in 16 MB of VMEM.
AHEAD = 6 << 20  # Up to so many bytes of keys and values, those of the next heads are fetched in the meantime.


class _Blocks(NamedTuple):
    """How a call is divided.

    Attributes:
        grid: Clips, groups of heads, blocks of queries.
        time: Frames, padded.
        rows: Queries of a step.
        columns: Keys at once.
        together: Heads of a step.
        period: Positions, padded.
        mask: Block of the mask.
        queries: Block of the queries and of the result.
        keys: Block of the keys and of the values.
        distances: Block of the distances' vectors.
    """

    grid: tuple[int, int, int]
    time: int
    rows: int
    columns: int
    together: int
    period: int
    mask: pl.BlockSpec
    queries: pl.BlockSpec
    keys: pl.BlockSpec
    distances: pl.BlockSpec


def attend_tpu(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"] | None,
    *,
    dtype: jnp.dtype,
    left: int,
) -> Float[Array, "batch time heads width"]:
    """Compute `attention.attend`, without a gradient.

    Trace a program for several chips with its mesh set (`jax.set_mesh`): each chip attends its own clips.

    Args:
        query: Queries, not yet scaled.
        key: Keys.
        value: Values.
        mask: True where a key may be attended to.
        distances: Vectors of the clipped distances -left .. positions - 1 - left; None for no position bias.
        dtype: Dtype of the matrix products. They accumulate in float32, and the softmax is float32.
        left: Largest distance to an earlier key that has a vector of its own.

    Returns:
        The attended values, rounded to `dtype`, as float32.
    """
    batch, time, heads, width = query.shape
    positions = 0 if distances is None else len(distances)
    blocks = _blocks(batch, time, heads, width, positions, jnp.dtype(dtype).itemsize)
    padding = blocks.time - time

    def merged(x: jax.Array) -> jax.Array:
        return jnp.pad(x.astype(dtype).reshape(batch, time, heads * width), ((0, 0), (0, padding), (0, 0)))

    hidden = added_to_scores(mask, padding)[:, None]
    if distances is None:
        distances = jnp.zeros((0, width), dtype)
    distances = jnp.pad(distances.astype(dtype), ((0, blocks.period - positions), (0, 0)))
    call = on_each_chip(partial(_call, heads=heads, positions=positions, left=left), batch)
    attended = call(hidden, merged(query * width**-0.5), merged(key), merged(value), distances)
    return attended[:, :time].reshape(batch, time, heads, width).astype(jnp.float32)


def work(batch: int, time: int, heads: int, width: int, positions: int, itemsize: int) -> Work:
    """Count what `attend_tpu` does from its grid and blocks.

    Args:
        batch: Number of clips.
        time: Frames of a clip.
        heads: Number of heads.
        width: Width of a head.
        positions: Number of vectors of distances; 0 for no position bias.
        itemsize: Bytes per item of the products' dtype.

    Returns:
        FLOPs and bytes.
    """
    blocks = _blocks(batch, time, heads, width, positions, itemsize)
    moved = bytes_moved(
        [
            (blocks.mask, 4),
            (blocks.queries, 2 * itemsize),
            (blocks.keys, 2 * itemsize),
            (blocks.distances, itemsize),
        ],
        list(product(*map(range, blocks.grid))),
    )
    keys = 2 * blocks.time + (blocks.period if positions else 0)
    return Work(prod(blocks.grid) * blocks.together * 2 * blocks.rows * keys * width, moved)


def _blocks(batch: int, time: int, heads: int, width: int, positions: int, itemsize: int) -> _Blocks:
    period = padded(max(positions, 1), LANES)
    time = padded(time, period)

    def fitting(most: int) -> int:
        return max(size for size in range(period, max(period, most) + 1, period) if time % size == 0)

    # Several heads share a block where it takes them to fill the lanes.
    filling = (count for count in range(1, heads) if heads % count == 0 and count * width % LANES == 0)
    together = next(filling, heads)
    rows, lanes = fitting(ROWS), together * width
    ahead = 2 * time * lanes * itemsize <= AHEAD
    return _Blocks(
        grid=(batch, heads // together, time // rows),
        time=time,
        rows=rows,
        columns=fitting(COLUMNS // itemsize),
        together=together,
        period=period,
        mask=pl.BlockSpec((None, 1, time), lambda clip, group, block: (clip, 0, 0)),
        queries=pl.BlockSpec((None, rows, lanes), lambda clip, group, block: (clip, block, group)),
        keys=pl.BlockSpec(
            (None, time, lanes),
            lambda clip, group, block: (clip, 0, group),
            pipeline_mode=pl.Buffered(2 if ahead else 1),
        ),
        distances=pl.BlockSpec((period, width), lambda clip, group, block: (0, 0)),
    )


def _call(
    mask: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    distances: jax.Array,
    *,
    heads: int,
    positions: int,
    left: int,
) -> jax.Array:
    batch, time, lanes = query.shape
    blocks = _blocks(batch, time, heads, lanes // heads, positions, query.dtype.itemsize)
    return pl.pallas_call(
        partial(_kernel, blocks=blocks, width=lanes // heads, positions=positions, left=left),
        out_shape=shape_like(query),
        grid=blocks.grid,
        in_specs=[blocks.mask, blocks.queries, blocks.keys, blocks.keys, blocks.distances],
        out_specs=blocks.queries,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="relative_attention",
    )(mask, query, key, value, distances)


def _kernel(
    mask_ref: jax.Ref,
    query_ref: jax.Ref,
    key_ref: jax.Ref,
    value_ref: jax.Ref,
    distances_ref: jax.Ref,
    out_ref: jax.Ref,
    *,
    blocks: _Blocks,
    width: int,
    positions: int,
    left: int,
) -> None:
    own = pl.program_id(2) * blocks.rows

    def head(number: int) -> jax.Array:
        lanes = slice(number * width, (number + 1) * width)
        query = query_ref[:, lanes]
        bias = _position_bias(query, distances_ref[...], blocks.columns, positions, left) if positions else None

        def step(block: jax.Array, so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            start = pl.multiple_of(block * blocks.columns, blocks.columns)
            keys = pl.ds(start, blocks.columns)
            scores = dot(query, key_ref[keys, lanes], 1) + mask_ref[:, keys]
            if bias is not None:
                scores += bias(start - own)
            top, total, attended = so_far
            higher = jnp.maximum(top, scores.max(axis=1, keepdims=True))
            weights = jnp.exp(scores - higher)
            faded = jnp.exp(top - higher)
            total = faded * total + weights.sum(axis=1, keepdims=True)
            values = value_ref[keys, lanes]
            return higher, total, faded * attended + dot(weights.astype(values.dtype), values, 0)

        nothing = (
            jnp.full((blocks.rows, 1), jnp.finfo(jnp.float32).min, jnp.float32),
            jnp.zeros((blocks.rows, 1), jnp.float32),
            jnp.zeros((blocks.rows, width), jnp.float32),
        )
        count = blocks.time // blocks.columns
        _, total, attended = jax.lax.fori_loop(0, count, step, nothing, unroll=count == 1)
        return attended / total

    out_ref[...] = jnp.concatenate([head(number) for number in range(blocks.together)], axis=1).astype(out_ref.dtype)


def _position_bias(
    query: jax.Array, distances: jax.Array, columns: int, positions: int, left: int
) -> Callable[[jax.Array], jax.Array]:
    """Return a function that gives the position bias of a step's queries for `columns` keys.

    The function takes the frame of the first key minus the frame of the first query. A key beyond the clipped distances
    has the bias of the nearest of them.
    """
    projected = dot(query, distances, 1)
    before, after = projected[:, :1], projected[:, positions - 1 : positions]
    near = jnp.concatenate([_along_diagonals(projected, left)] * (columns // projected.shape[1]), axis=1)

    def bias(apart: jax.Array) -> jax.Array:
        key, query = (jax.lax.broadcasted_iota(jnp.int32, near.shape, axis) for axis in (1, 0))
        distance = key - query + apart
        return jnp.where(distance < -left, before, jnp.where(distance >= positions - left, after, near))

    return bias


def _along_diagonals(projected: jax.Array, left: int) -> jax.Array:
    """Roll row i right by i - left, so that column c has the distance c - i modulo the number of columns.

    Rows are first rolled within registers of eight, by the powers of two in their number; then whole registers are
    rolled. A TPU v4 can't roll each row by its own length.
    """
    rows, period = projected.shape
    number = jax.lax.broadcasted_iota(jnp.int32, projected.shape, 0)
    for power in (1, 2, 4):
        projected = jnp.where(number & power != 0, pltpu.roll(projected, power, 1), projected)
    registers = [
        pltpu.roll(projected[start : start + SUBLANES], (start - left) % period, 1)
        for start in range(0, rows, SUBLANES)
    ]
    return jnp.concatenate(registers, axis=0)
