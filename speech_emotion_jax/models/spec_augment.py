"""What SpecAugment masks, drawn as Wav2Vec2-BERT's training draws it (transformers' `_compute_mask_indices`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def masked_spans(
    key: Key[Array, ""], lengths: Int[Array, " batch"], size: int, *, share: float, span: int, least: int
) -> Bool[Array, "batch size"]:
    """True at the places that are masked, in rows of which the first `lengths` of `size` places are real.

    A row has share x length / span spans, rounded up or down by a draw that all rows share, but `least` at least and as
    many as fit at most. They start at different places and may overlap, so `share` is an upper bound.
    """
    if span > size:
        return jnp.zeros((len(lengths), size), bool)
    rounding_key, start_key = jax.random.split(key)
    counts = (share * lengths / span + jax.random.uniform(rounding_key)).astype(jnp.int32)
    starts = jnp.maximum(lengths - (span - 1), 0)  # places where a span may start
    counts = jnp.minimum(jnp.clip(counts, least, size // span), starts)
    most = min(max(int(share * size / span + 1), least), size // span)
    if most == 0:
        return jnp.zeros((len(lengths), size), bool)
    places = jnp.arange(size)[None]
    draws = jax.random.uniform(start_key, (len(lengths), size))
    _, drawn = jax.lax.top_k(jnp.where(places < starts[:, None], draws, -1.0), most)
    chosen = jnp.arange(most)[None] < counts[:, None]
    inside = (places[None] >= drawn[..., None]) & (places[None] < drawn[..., None] + span)
    return (inside & chosen[..., None]).any(axis=1)
