"""Helpers for Pallas kernels: their masks and products, their calls on several chips, and what a call costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from ...errors import InvalidInput

Kernel = Callable[..., Float[Array, "batch ..."]]

SWITCH = "SPEECH_EMOTION_JAX_KERNELS"


class Work(NamedTuple):
    """Cost of a kernel's call.

    Attributes:
        flops: Floating-point operations of its matrix products.
        bytes: Bytes moved between its blocks and memory.
    """

    flops: int
    bytes: int


def bytes_moved(blocks: Iterable[tuple[pl.BlockSpec, int]], steps: Sequence[tuple[int, ...]]) -> int:
    """Count the bytes moved between memory and a kernel's blocks.

    A block is moved at each step of the grid at which it is not the block of the step before.

    Args:
        blocks: Pairs of a block and its bytes per item.
        steps: The grid's steps in the order in which they run.

    Returns:
        Bytes read and written.
    """
    total = 0
    for spec, itemsize in blocks:
        assert spec.index_map is not None
        assert spec.block_shape is not None
        places = [spec.index_map(*step) for step in steps]
        changes = 1 + sum(before != after for before, after in pairwise(places))
        total += changes * itemsize * prod(extent if isinstance(extent, int) else 1 for extent in spec.block_shape)
    return total


def added_to_scores(mask: Bool[Array, "batch time"], padding: int) -> Float[Array, "batch padded"]:
    """Return what to add to the scores of each key: 0, or the lowest float32 for a masked key.

    Args:
        mask: True where a key may be attended to.
        padding: Number of keys of padding to append. They get -inf: a clip without any unmasked key attends to all its
            own keys, as on other platforms, but never to these.

    Returns:
        The summands, float32.
    """
    hidden = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min).astype(jnp.float32)
    return jnp.pad(hidden, ((0, 0), (0, padding)), constant_values=-jnp.inf)


def dot(
    a: Float[Array, "rows inner"], b: Float[Array, "first second"], contracted: int
) -> Float[Array, "rows columns"]:
    """Multiply the last axis of `a` by the axis `contracted` of `b`, accumulated in float32.

    Args:
        a: Left operand.
        b: Right operand. float32 is multiplied at full precision.
        contracted: Axis of `b` to sum over, 0 or 1.

    Returns:
        The product, float32.
    """
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (contracted,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if b.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def kernels_enabled() -> bool:
    """Return False if SPEECH_EMOTION_JAX_KERNELS=off.

    Raises:
        InvalidInput: The variable is neither "on" nor "off".
    """
    if (value := os.environ.get(SWITCH) or "on") not in ("on", "off"):
        raise InvalidInput(f"{SWITCH} is {value!r}; set it to on or off")
    return value == "on"


def has_mesh_or_one_device() -> bool:
    """Return whether a kernel can be traced here: a mesh is set (`jax.set_mesh`), or there is one device."""
    return not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1


def on_each_chip(call: Kernel, batch: int) -> Kernel:
    """Let each chip of the mesh that is set attend its own clips. XLA can't divide a kernel's call.

    Args:
        call: A function of five arrays. The first axis of four of them is the batch; all chips get the last in full.
        batch: Number of clips.

    Returns:
        The divided call; `call` itself without a mesh (`jax.set_mesh`) or inside a `shard_map`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return call
    clips = PartitionSpec(mesh.axis_names if batch % mesh.size == 0 else None)
    each = (clips, clips, clips, clips, PartitionSpec())
    return jax.shard_map(call, in_specs=each, out_specs=clips, check_vma=False)


def padded(count: int, multiple: int) -> int:
    """Return `count` rounded up to a multiple of `multiple`."""
    return -(-count // multiple) * multiple
