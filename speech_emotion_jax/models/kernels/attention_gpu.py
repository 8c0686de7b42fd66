"""Relative-key attention for an NVIDIA GPU: one kernel, made by Triton, with a running softmax over blocks of keys.

The arrays stay as the linear layers make and take them, (batch, time, heads, width). The products of queries and
vectors of the distances are a matrix product before the kernel, small beside the scores. Blocks of keys that lie wholly
before or after the clipped distances add one of two numbers a query; the few between gather theirs by their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from math import e, log2, prod
from pkgutil import iter_modules
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from ..layers import contract
from .pallas import Work, added_to_scores, bytes_moved, dot, on_each_chip, padded

ROWS, COLUMNS = 128, 64  # queries of a step at most, keys at once: two steps fit into the registers of a core
LEAST = 16  # lines and columns of a tensor core's products


class _Blocks(NamedTuple):
    """How a call is divided: its grid (blocks of queries, heads, batch) and what a step of it holds.

    A GPU starts the steps with the first axis innermost, so that those that share keys run side by side.
    """

    grid: tuple[int, int, int]
    time: int  # padded
    width: int  # padded
    rows: int  # queries of a step
    columns: int  # keys at once
    warps: int
    period: int  # positions, padded
    mask: pl.BlockSpec
    queries: pl.BlockSpec  # and what comes out
    keys: pl.BlockSpec  # and values
    projected: pl.BlockSpec


def attend_gpu(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    mask: Bool[Array, "batch time"],
    distances: Float[Array, "positions width"],
    *,
    dtype: jnp.dtype,
    left: int,
) -> Float[Array, "batch time heads width"]:
    """As `attention.attend`, forward alone. What comes out is float32, rounded to `dtype`.

    The products take `dtype` and accumulate in float32, as the softmax. A program for several chips is to be traced
    with its mesh in use (`jax.set_mesh`): each chip attends its own clips.
    """
    batch, time, heads, width = query.shape
    positions = len(distances)
    blocks = _blocks(batch, time, heads, width, positions, jnp.dtype(dtype).itemsize)
    padding, beside = blocks.time - time, blocks.width - width

    def whole(x: jax.Array) -> jax.Array:
        return jnp.pad(x.astype(dtype), ((0, 0), (0, padding), (0, 0), (0, beside)))

    hidden = added_to_scores(mask, padding)
    # Scores are in units of log 2: a GPU raises 2 to a power, not e.
    query = whole(query * (log2(e) * width**-0.5))
    distances = jnp.pad(distances.astype(dtype), ((0, blocks.period - positions), (0, beside)))
    call = on_each_chip(partial(_call, positions=positions, left=left), batch)
    attended = call(hidden, query, whole(key), whole(value), distances)
    return attended[:, :time, :, :width].astype(jnp.float32)


def can_be_made() -> bool:
    """Whether what is traced may be compiled for a GPU that Triton knows: one that is here, or one to be planned for.

    Triton refuses GPUs before Ampere (compute capability 8.0). JAX compiles for GPUs that are not here where its plugin
    for CUDA is installed; elsewhere the kernel would be traced, and Triton imported, for nothing.
    """
    capabilities = [device.compute_capability for device in jax.local_devices() if device.platform == "gpu"]
    if capabilities:
        return not any(capability.startswith(("5.", "6.", "7.")) for capability in capabilities)
    plugins = find_spec("jax_plugins")
    installed = iter_modules(plugins.submodule_search_locations) if plugins else ()
    return any(plugin.name.startswith("xla_cuda") for plugin in installed)


def work(batch: int, time: int, heads: int, width: int, positions: int, itemsize: int) -> Work:
    """What the kernel of `attend_gpu` does for such arrays, items of `itemsize` bytes, counted from grid and blocks.

    A block is read from memory, or written, where it isn't that of the step started before: steps of the same block run
    side by side, and the second finds it in the cache of the chip.
    """
    blocks = _blocks(batch, time, heads, width, positions, itemsize)
    moved = bytes_moved(
        [
            (blocks.mask, 4),
            (blocks.queries, 2 * itemsize),
            (blocks.keys, 2 * itemsize),
            (blocks.projected, 4),
        ],
        [step[::-1] for step in product(*map(range, blocks.grid[::-1]))],
    )
    return Work(prod(blocks.grid) * 2 * 2 * blocks.rows * blocks.time * blocks.width, moved)


def _blocks(batch: int, time: int, heads: int, width: int, positions: int, itemsize: int) -> _Blocks:
    # Float32 is multiplied outside the tensor cores, out of registers: half of the queries and keys fill them.
    most, columns = ROWS * 2 // itemsize, COLUMNS * 2 // itemsize
    time = padded(time, COLUMNS)
    rows = most if time % most == 0 else COLUMNS
    width, period = max(LEAST, pl.next_power_of_2(width)), padded(positions, LEAST)
    return _Blocks(
        grid=(time // rows, heads, batch),
        time=time,
        width=width,
        rows=rows,
        columns=columns,
        warps=rows * itemsize // 32,
        period=period,
        mask=pl.BlockSpec((None, time), lambda block, head, clip: (clip, 0)),
        queries=pl.BlockSpec((None, rows, None, width), lambda block, head, clip: (clip, block, head, 0)),
        keys=pl.BlockSpec((None, time, None, width), lambda block, head, clip: (clip, 0, head, 0)),
        projected=pl.BlockSpec((None, rows, None, period), lambda block, head, clip: (clip, block, head, 0)),
    )


def _call(
    mask: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    distances: jax.Array,
    *,
    positions: int,
    left: int,
) -> jax.Array:
    from jax.experimental.pallas import triton as plgpu  # JAX for Windows doesn't have it

    batch, time, heads, width = query.shape
    blocks = _blocks(batch, time, heads, width, positions, query.dtype.itemsize)
    projected = contract("bthd,pd->bthp", query, distances)
    return pl.pallas_call(
        partial(_relative_attention, columns=blocks.columns, positions=positions, left=left),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype, manual_axis_type=jax.typeof(query).mat),
        grid=blocks.grid,
        in_specs=[blocks.mask, blocks.queries, blocks.keys, blocks.keys, blocks.projected],
        out_specs=blocks.queries,
        compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=2),
        name="relative_attention",
    )(mask, query, key, value, projected)


def _relative_attention(
    mask_ref: jax.Ref,
    query_ref: jax.Ref,
    key_ref: jax.Ref,
    value_ref: jax.Ref,
    projected_ref: jax.Ref,
    out_ref: jax.Ref,
    *,
    columns: int,
    positions: int,
    left: int,
) -> None:
    (rows, width), time, near, right = query_ref.shape, len(key_ref), columns // 2, positions - 1 - left
    first = pl.program_id(0) * rows  # query of this step
    query, own = query_ref[...], jnp.arange(rows)
    before, after = projected_ref[:, 0][:, None], projected_ref[:, positions - 1][:, None]

    def beside(start: jax.Array) -> jax.Array:
        distance = start + jnp.arange(near)[None] - (first + own[:, None])
        return projected_ref[own[:, None], jnp.clip(distance, -left, right) + left]

    def attend(bias: Callable[[jax.Array], jax.Array], columns: int, block: jax.Array, so_far: _SoFar) -> _SoFar:
        keys = pl.ds(block * columns, columns)
        scores = dot(query, key_ref[keys, :], 1) + bias(block * columns) + mask_ref[keys][None]
        top, total, attended = so_far
        higher = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.exp2(scores - higher[:, None])
        faded = jnp.exp2(top - higher)
        total = faded * total + weights.sum(axis=1)
        values = value_ref[keys, :]
        return higher, total, faded[:, None] * attended + dot(weights.astype(values.dtype), values, 0)

    so_far = (
        jnp.full(rows, jnp.finfo(jnp.float32).min, jnp.float32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((rows, width), jnp.float32),
    )
    # Blocks of keys before the band, half blocks in it, as the addresses take registers, and blocks after it.
    begin = jax.lax.div(jnp.maximum(first - left + 1, 0), columns)
    end = jnp.minimum(jax.lax.div(first + rows + right + columns - 2, columns), time // columns)
    so_far = jax.lax.fori_loop(0, begin, partial(attend, lambda _: before, columns), so_far)
    so_far = jax.lax.fori_loop(begin * 2, end * 2, partial(attend, beside, near), so_far)
    so_far = jax.lax.fori_loop(end, time // columns, partial(attend, lambda _: after, columns), so_far)
    _, total, attended = so_far
    out_ref[...] = (attended / total[:, None]).astype(out_ref.dtype)


_SoFar = tuple[jax.Array, jax.Array, jax.Array]  # the highest score, the sum of the weights, that of weighted values
