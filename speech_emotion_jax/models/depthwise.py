"""Causal depthwise convolution, and its way back, as passes that XLA fuses.

Shifted multiply-adds fuse into one pass; XLA's grouped convolution is slower on CPUs. Derived from them, the way back
would be 31 passes with sums between them, so it is written out: the input's gradient is the same sum of shifts in the
other direction, the kernel's a sum over clips and frames for each tap.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def depthwise(
    x: Float[Array, "batch frames width"], kernel: Float[Array, "taps width"]
) -> Float[Array, "batch frames width"]:
    """y[t] = sum over taps i of kernel[i] x[t - (taps - 1) + i], zeros standing before the first frame."""
    # In a `shard_map` of others a kernel is on all devices and clips are divided over them. The way back below gives
    # each device's own part of the kernel's gradient; made to differ between devices here, the parts are summed.
    axes = [jax.typeof(each).manual_axis_type.varying for each in (x, kernel)]
    if axes[0] != axes[1]:
        x = jax.lax.pcast(x, tuple(axes[1] - axes[0]), to="varying")
        kernel = jax.lax.pcast(kernel, tuple(axes[0] - axes[1]), to="varying")
    return _depthwise(x, kernel)


@jax.custom_vjp
def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    taps, frames = len(kernel), x.shape[1]
    padded = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    shifted = (padded[:, tap : tap + frames] * kernel[tap][None, None] for tap in range(taps))
    return sum(shifted, start=jnp.zeros_like(x))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    taps, frames = len(kernel), x.shape[1]
    before = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    after = jnp.pad(gradient, ((0, 0), (0, taps - 1), (0, 0)))

    def of_tap(tap: jax.Array) -> jax.Array:
        return (jax.lax.dynamic_slice_in_dim(before, tap, frames, axis=1) * gradient).sum(axis=(0, 1))

    shifted = (after[:, taps - 1 - tap :][:, :frames] * kernel[tap][None, None] for tap in range(taps))
    return sum(shifted, start=jnp.zeros_like(x)), jax.lax.map(of_tap, jnp.arange(taps))


_depthwise.defvjp(_forward, _backward)
