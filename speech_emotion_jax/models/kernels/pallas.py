"""What the hand-written kernels share: their masks and products, their calls on several chips, what a call does."""

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
    """What a call does: floating-point operations of its matrix products, and bytes between its blocks and memory."""

    flops: int
    bytes: int


def bytes_moved(blocks: Iterable[tuple[pl.BlockSpec, int]], steps: Sequence[tuple[int, ...]]) -> int:
    """Bytes that pass between memory and blocks, each with its bytes an item, in the order of the grid's steps.

    A block is read, or written, where it isn't that of the step before.
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
    """What is added to the scores of each key, and of so many keys of padding behind them.

    A clip without a single unmasked key attends to all of its own, as elsewhere, but never to the padding here.
    """
    hidden = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min).astype(jnp.float32)
    return jnp.pad(hidden, ((0, 0), (0, padding)), constant_values=-jnp.inf)


def dot(
    a: Float[Array, "rows inner"], b: Float[Array, "first second"], contracted: int
) -> Float[Array, "rows columns"]:
    """The last axis of `a` by the axis `contracted` of `b`, accumulated in float32, which is multiplied in full."""
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (contracted,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if b.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def kernels_enabled() -> bool:
    """Whether kernels may be called at all. The environment can say that they may not, as on a chip for which one can't
    be compiled. Raises InvalidInput where it says neither.
    """
    if (said := os.environ.get(SWITCH) or "on") not in ("on", "off"):
        raise InvalidInput(f"{SWITCH} is {said!r}; set it to on or off")
    return said == "on"


def knows_its_chips() -> bool:
    """Whether what is traced can call a kernel: its mesh is in use, or there is but one device."""
    return not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1


def on_each_chip(call: Kernel, batch: int) -> Kernel:
    """`call`, which XLA can't divide, where each chip of the mesh in use attends its own clips.

    The last of its five arguments is whole on each. Without a mesh (`jax.set_mesh`), or inside a `shard_map`, it is one
    chip's call.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return call
    clips = PartitionSpec(mesh.axis_names if batch % mesh.size == 0 else None)
    each = (clips, clips, clips, clips, PartitionSpec())
    return jax.shard_map(call, in_specs=each, out_specs=clips, check_vma=False)


def padded(count: int, multiple: int) -> int:
    """The least number that holds `count` and that `multiple` divides."""
    return -(-count // multiple) * multiple
