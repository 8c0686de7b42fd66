"""Attention with relative keys against its definition, forward and gradient."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..models import attend
from .checks import Check, limited, stopwatch

LENGTHS = (1, 2, 63, 64, 65, 200, 500, 1000, 2000)  # frames of 20 ms
SHORT_LENGTHS = (1, 65, 200)
HEADS, WIDTH, LEFT, RIGHT = 2, 64, 64, 8  # Wav2Vec2-BERT's, with fewer heads
# Relative to the largest value. Values have standard deviation 1, and the softmax is taken in float32.
LIMITS = {"float32": (2e-5, 1e-4), "bfloat16": (3e-2, 6e-2)}  # forward, gradient


def check_attention(device: jax.Device, lengths: tuple[int, ...], precisions: tuple[str, ...]) -> Iterator[Check]:
    """Compare the attention that this device runs with the definition, at each length.

    The three clips of a batch have all frames, half of them, and one.

    Args:
        device: where both are computed.
        lengths: the numbers of frames.
        precisions: of "float32" and "bfloat16", the dtype of the products.

    Yields:
        For each length and precision a check of the output and one of the gradient.
    """
    for precision in precisions:
        for frames in lengths:
            yield from _check_length(device, frames, precision)


def _check_length(device: jax.Device, frames: int, precision: str) -> Iterator[Check]:
    *inputs, mask, distances = jax.device_put(_inputs(frames), device)
    given = (*inputs, distances)
    weights = jax.device_put(np.random.default_rng(1).normal(size=inputs[0].shape).astype(np.float32), device)
    run = partial(_attended, mask, jnp.dtype(precision))
    with stopwatch() as seconds:
        ours, our_gradient = jax.block_until_ready(_with_gradient(run, weights)(*given))
        took = seconds()
    definition = partial(plain_attention, mask)
    theirs, their_gradient = _with_gradient(definition, weights)(*given)
    forward, backward = LIMITS[precision]
    kept = np.asarray(mask)[:, :, None, None]
    name = f"attention, {frames} frames, {precision}"
    yield limited(name, _relative(np.where(kept, ours, 0), np.where(kept, theirs, 0)), forward, took)
    parts = ("query", "key", "value", "distances")
    errors = {part: _relative(a, b) for part, a, b in zip(parts, our_gradient, their_gradient, strict=True)}
    worst = max(errors, key=lambda part: errors[part])
    yield limited(f"{name}, gradient", errors[worst], backward, took, f"largest for {worst}")


def _with_gradient(run, weights: jax.Array):
    """Return a program for the output and the gradient of its sum weighted by `weights`."""

    def weighted(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = run(*inputs)
        return (output * weights).sum(), output

    def both(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        (_, output), gradient = jax.value_and_grad(weighted, argnums=(0, 1, 2, 3), has_aux=True)(*inputs)
        return output, gradient

    return jax.jit(both)


def _attended(mask, dtype, query, key, value, distances) -> jax.Array:
    return attend(query, key, value, mask, dtype=dtype, distances=distances, left=LEFT)


def plain_attention(
    mask: Bool[Array, "batch time"],
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    distances: Float[Array, "positions width"],
) -> Float[Array, "batch time heads width"]:
    """Compute attention by its definition, all scores at once, in full float32.

    softmax((q . k + q . E[clip(k - q, -left, right) + left]) / sqrt(width)) v, Shaw et al. 2018.
    """
    time, width = query.shape[1], query.shape[-1]
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    apart = np.clip(np.arange(time)[None] - np.arange(time)[:, None], -LEFT, RIGHT) + LEFT
    by_distance = product("bqhd,pd->bhqp", query, distances)
    index = jnp.broadcast_to(apart, (*by_distance.shape[:2], time, time))
    scores = product("bqhd,bkhd->bhqk", query, key) + jnp.take_along_axis(by_distance, index, axis=-1)
    scores = jnp.where(mask[:, None, None], scores * width**-0.5, -jnp.inf)
    return product("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)


def _inputs(frames: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(frames)
    query, key, value = (rng.normal(size=(3, frames, HEADS, WIDTH)).astype(np.float32) for _ in range(3))
    counts = np.array([frames, max(1, frames // 2), 1])
    mask = np.arange(frames)[None] < counts[:, None]
    distances = rng.normal(size=(LEFT + RIGHT + 1, WIDTH)).astype(np.float32)
    return query, key, value, mask, distances


def _relative(ours: np.ndarray | jax.Array, theirs: np.ndarray | jax.Array) -> float:
    """Return the largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
