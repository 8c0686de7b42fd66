"""The spans that SpecAugment masks, drawn as in transformers' training (`_compute_mask_indices`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def masked_spans(
    key: Key[Array, ""], lengths: Int[Array, " batch"], size: int, *, fraction: float, span: int, least: int
) -> Bool[Array, "batch size"]:
    """Draw the places to mask.

    A row gets `fraction * length / span` spans, rounded up or down by one draw for all rows, but at least `least` and
    at most as many as fit. The spans start at different places and may overlap, so `fraction` is an upper bound.

    Args:
        key: Draws the spans.
        lengths: Number of real places in each row; these come first.
        size: Number of places in a row, padding included.
        fraction: Fraction of the real places to mask.
        span: Length of a span in places.
        least: Least number of spans in a row.

    Returns:
        True at masked places.
    """
    if span > size:
        return jnp.zeros((len(lengths), size), bool)
    rounding_key, start_key = jax.random.split(key)
    counts = (fraction * lengths / span + jax.random.uniform(rounding_key)).astype(jnp.int32)
    starts = jnp.maximum(lengths - (span - 1), 0)  # Number of places where a span may start.
    counts = jnp.minimum(jnp.clip(counts, least, size // span), starts)
    most = min(max(int(fraction * size / span + 1), least), size // span)
    if most == 0:
        return jnp.zeros((len(lengths), size), bool)
    places = jnp.arange(size)[None]
    draws = jax.random.uniform(start_key, (len(lengths), size))
    _, drawn = jax.lax.top_k(jnp.where(places < starts[:, None], draws, -1.0), most)
    chosen = jnp.arange(most)[None] < counts[:, None]
    inside = (places[None] >= drawn[..., None]) & (places[None] < drawn[..., None] + span)
    return (inside & chosen[..., None]).any(axis=1)
