"""Attention with relative keys by its definition, slowly, and what it is tried on."""

from itertools import product
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

WIDTH = 64
FLOAT32 = jnp.dtype(jnp.float32)
EXACT = 1e-5  # of float32, absolute: values are of standard deviation 1


def drawn(
    time: int, *, batch: int = 2, heads: int = 2, width: int = WIDTH, positions: int = 73, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Queries, keys, values, a mask with holes, and the vectors of the distances."""
    rng = np.random.default_rng([time, positions, seed])
    arrays = [rng.normal(size=(batch, time, heads, width)).astype(np.float32) for _ in range(3)]
    mask = rng.random((batch, time)) < rng.uniform(0.1, 1, size=(batch, 1))
    mask[np.arange(batch), rng.integers(time, size=batch)] = True
    return *arrays, mask, rng.normal(size=(positions, width)).astype(np.float32)


def by_rows(*arrays: Any, left: int) -> np.ndarray:
    """The definition, a head and at most 100 queries at a time, in float64."""
    query, key, value, mask, distances = arrays
    batch, time, heads, width = query.shape
    out = np.zeros(query.shape)
    for clip, head, start in product(range(batch), range(heads), range(0, time, 100)):
        rows = slice(start, min(start + 100, time))
        asked = query[clip, rows, head].astype(np.float64) / np.sqrt(width)
        scores = asked @ key[clip, :, head].T.astype(np.float64)
        if distances is not None:
            apart = np.clip(np.arange(time) - np.arange(time)[rows, None], -left, len(distances) - 1 - left)
            scores += np.take_along_axis(asked @ distances.T.astype(np.float64), apart + left, axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * mask[clip]
        out[clip, rows, head] = weights @ value[clip, :, head] / weights.sum(axis=1, keepdims=True)
    return out


def flops(part: Any) -> int:
    """Of the matrix products in the text of a program, those of its loops left out."""
    sizes = 0
    for equation in part.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            sizes += 2 * prod(equation.outvars[0].aval.shape) * depth
    return sizes
