"""Multi-head attention with a padding mask and, for Wav2Vec2-BERT, relative-key positions.

The position bias is q . E[clip(key - query, -left, right) + left] (Shaw et al. 2018, with the asymmetric clipping of
Wav2Vec2-BERT). The queries are projected onto the left + right + 1 vectors of E once, and the products are laid along
the diagonals; a (time, time, head width) table is never built. Queries are attended in blocks, so memory grows linearly
with time: a 160 s clip (8,000 frames) runs on a laptop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ..runtime.compat import varying_axes
from .kernels.attention_cpu import attend_cpu
from .kernels.attention_tpu import attend_tpu
from .kernels.attention_xla import QUERY_BLOCK, attend_in_blocks, attention_gradients
from .kernels.pallas import has_mesh_or_one_device, kernels_enabled
from .layers import contract

CPU_SCORES = 0  # Blocks of QUERY_BLOCK queries: their scores stay in a CPU core's cache.
HEAD_BLOCK = 500  # Queries of a head at once in `attend_everywhere`, for the same reason.
KEYS_SUMMED = 150  # Keys per partial sum in `attend_everywhere`.


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
    """Compute softmax((query . key + position bias) / sqrt(width)) value over the unmasked keys.

    The result is the same on all platforms within rounding. The gradient is `attention_gradients` on all of them.

    Args:
        query: Queries, not yet scaled.
        key: Keys.
        value: Values.
        mask: True where a key may be attended to. A clip without any attends to all keys alike.
        dtype: Dtype of the matrix products. They accumulate in float32, and the softmax is float32.
        distances: Vectors of the clipped distances -left .. positions - 1 - left; None for no position bias.
        left: Largest distance to an earlier key that has a vector of its own.
        drop: Probability that a weight is dropped during training.
        drop_key: Key of the dropped weights; None drops nothing.

    Returns:
        The attended values, float32.
    """
    if distances is not None:
        # In a `shard_map` the clips differ between devices and the vectors do not. Made to differ here, their gradient
        # is summed over the devices.
        varying = varying_axes(query) - varying_axes(distances)
        distances = jax.lax.pcast(distances, tuple(varying), to="varying")
    return _attend(jnp.dtype(dtype), left, drop, query, key, value, mask, distances, drop_key if drop > 0 else None)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    dtype: jnp.dtype,
    left: int,
    drop: float,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    distances: jax.Array | None,
    drop_key: jax.Array | None,
) -> jax.Array:
    """Compute `attend` by the fastest form for the platform that is compiled for."""
    in_blocks = partial(attend_in_blocks, dtype=dtype, left=left, drop=drop, drop_key=drop_key)
    in_small_blocks = partial(in_blocks, scores=CPU_SCORES)
    arrays = (query, key, value, mask, distances)
    if drop_key is not None:  # The draws depend on the blocks, so they are the same on all platforms.
        return in_small_blocks(*arrays)
    batch, time = query.shape[:2]
    relative = distances is not None and time > QUERY_BLOCK
    # A program to be exported has a symbolic batch and runs on one device. The kernel's grid needs a number.
    symbolic = not isinstance(batch, int)
    loops = relative and (symbolic or _is_for_one_device())
    by_kernel = relative and not symbolic and kernels_enabled() and has_mesh_or_one_device()
    return jax.lax.platform_dependent(
        *arrays,
        cpu=partial(attend_cpu, dtype=dtype, left=left) if loops else in_small_blocks,
        tpu=partial(attend_tpu, dtype=dtype, left=left) if by_kernel else in_blocks,
        default=in_blocks,
    )


def _is_for_one_device() -> bool:
    """Return whether there is one device, or the caller is inside a `shard_map` or `pmap`.

    XLA can't divide a loop over clips and heads over devices without moving them.
    """
    return bool(jax.sharding.get_abstract_mesh().manual_axes) or jax.device_count() == 1


def _forward(dtype: jnp.dtype, left: int, drop: float, *inputs: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    return _attend(dtype, left, drop, *inputs), inputs


def _backward(
    dtype: jnp.dtype, left: int, drop: float, inputs: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    query, key, value, mask, distances, drop_key = inputs
    arrays = (query, key, value, mask, distances)
    in_blocks = partial(attention_gradients, dtype=dtype, left=left, drop=drop, drop_key=drop_key)
    in_small_blocks = partial(in_blocks, scores=CPU_SCORES)
    if drop_key is not None:
        of_query, of_key, of_value, of_distances = in_small_blocks(*arrays, gradient)
    else:
        of_query, of_key, of_value, of_distances = jax.lax.platform_dependent(
            *arrays, gradient, cpu=in_small_blocks, default=in_blocks
        )
    return of_query, of_key, of_value, None, of_distances, None


_attend.defvjp(_forward, _backward)


def attend_everywhere(
    query: Float[Array, "batch queries heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    *,
    dtype: jnp.dtype,
) -> Float[Array, "batch queries heads width"]:
    """Compute softmax(query . key / sqrt(width)) value over all keys, as in an encoder whose input is never padded.

    A CPU takes one head and HEAD_BLOCK queries at a time: plain matrix products whose scores stay in its cache.

    Args:
        query: Queries, not yet scaled.
        key: Keys.
        value: Values.
        dtype: Dtype of the matrix products. They accumulate in float32, and the softmax is float32.

    Returns:
        The attended values, float32.
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
                # A sum over a thousand keys of similar weight, term by term, loses a digit in float32.
                some = [slice(first, first + KEYS_SUMMED) for first in range(0, len(value), KEYS_SUMMED)]
                attended = sum(contract("qk,kd->qd", weights[:, keys], value[keys]) for keys in some)
                # Dividing the result, and not each weight, saves a pass over the scores.
                return attended / weights.sum(axis=-1, keepdims=True)

            return jax.lax.map(part, query.reshape(-1, block, width))

        each = rows(query * width**-0.5), rows(key.astype(dtype)), rows(value.astype(dtype))
        return jax.lax.map(head, each).reshape(batch, heads, queries, width).swapaxes(1, 2)

    def by_block(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attend(query, key, value, jnp.ones(key.shape[:2], bool), dtype=dtype)

    return jax.lax.platform_dependent(query, key, value, cpu=by_head, default=by_block)
