"""Causal depthwise convolution with a gradient of its own.

The convolution is a sum of shifted inputs, each multiplied by one tap of the kernel. XLA fuses the sum into one pass,
which is faster on CPUs than its grouped convolution. Automatic differentiation would turn the sum into one pass per tap
with a sum between passes, so the gradient is written out here: the gradient of the input is the same sum with the
shifts reversed, and the gradient of a tap is a sum over clips and frames.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..runtime.compat import varying_axes


def depthwise(
    x: Float[Array, "batch frames width"], kernel: Float[Array, "taps width"]
) -> Float[Array, "batch frames width"]:
    """Convolve each channel over time with its own kernel.

    Computes y[t] = sum over taps i of kernel[i] x[t - (taps - 1) + i], where x is zero before the first frame.
    """
    # Inside a caller's `shard_map` the kernel is replicated and the clips are divided over the devices. `_backward`
    # computes each device's part of the kernel's gradient. Marking the kernel as varying over those axes makes JAX sum
    # the parts.
    axes = [varying_axes(each) for each in (x, kernel)]
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


def _backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    taps, frames = len(kernel), x.shape[1]
    before = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    after = jnp.pad(gradient, ((0, 0), (0, taps - 1), (0, 0)))

    def tap_gradient(tap: jax.Array) -> jax.Array:
        return (jax.lax.dynamic_slice_in_dim(before, tap, frames, axis=1) * gradient).sum(axis=(0, 1))

    shifted = (after[:, taps - 1 - tap :][:, :frames] * kernel[tap][None, None] for tap in range(taps))
    return sum(shifted, start=jnp.zeros_like(x)), jax.lax.map(tap_gradient, jnp.arange(taps))


_depthwise.defvjp(_forward, _backward)
