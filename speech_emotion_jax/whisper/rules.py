"""Which tokens may come next: suppressed ones, those no transcript begins with, and the order of timestamps.

With timestamps a transcript is `<|0.00|> words <|2.40|><|2.40|> words <|5.00|>`: they come in pairs except at the
start, never go back, and the first is near the beginning (Radford et al. 2022, section 2.3 and the original decoder).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class TokenRules:
    """Token ids that steer the decoding; all ids from `first_timestamp` up are timestamps, 20 ms apart."""

    end: int
    no_speech: int
    first_timestamp: int
    suppressed: tuple[int, ...]  # never written
    begin_suppressed: tuple[int, ...]  # not written first
    timestamps: bool
    latest_start: int | None  # the first timestamp is at most so many steps of 20 ms; None: anywhere

    def mask_scores(
        self, scores: Float[Array, "rows vocabulary"], tokens: Int[Array, "rows limit"], count: Int[Array, ""]
    ) -> Float[Array, "rows vocabulary"]:
        """The scores of the next token (logits or log-probabilities), minus infinity where it may not be.

        `tokens` holds the `count` tokens written so far; what stands behind them does not matter.
        """
        ids = np.arange(scores.shape[1])
        scores = jnp.where(np.isin(ids, self.suppressed)[None], -jnp.inf, scores)
        scores = jnp.where(np.isin(ids, self.begin_suppressed)[None] & (count == 0), -jnp.inf, scores)
        if not self.timestamps:
            return scores
        scores = jnp.where(self._out_of_order(ids, tokens, count), -jnp.inf, scores)
        # A timestamp comes where all of them together are likelier than any one word.
        log_probabilities = jax.nn.log_softmax(scores)
        timestamps = jax.nn.logsumexp(log_probabilities[:, self.first_timestamp :], axis=-1)
        words = log_probabilities[:, : self.first_timestamp].max(axis=-1)
        return jnp.where((timestamps > words)[:, None] & (ids < self.first_timestamp)[None], -jnp.inf, scores)

    def _out_of_order(
        self, ids: Int[np.ndarray, " vocabulary"], tokens: Int[Array, "rows limit"], count: Int[Array, ""]
    ) -> Bool[Array, "rows vocabulary"]:
        is_timestamp, is_word = (ids >= self.first_timestamp)[None], (ids < self.end)[None]

        def timestamp_before(places: int) -> Bool[Array, "rows 1"]:
            at = jnp.maximum(count - places, 0)
            return (jax.lax.dynamic_index_in_dim(tokens, at, axis=1) >= self.first_timestamp) & (count >= places)

        closed, paired = timestamp_before(1), timestamp_before(2) | (count < 2)
        written = jnp.arange(tokens.shape[1])[None] < count
        latest = jnp.where(written, tokens, 0).max(axis=1, keepdims=True)
        # A timestamp that ends a stretch of words may be repeated to begin the next; one of a pair may not.
        earliest = jnp.where(closed & ~paired, latest, latest + 1)
        wrong = jnp.where(closed & paired, is_timestamp, False) | jnp.where(closed & ~paired, is_word, False)
        wrong |= is_timestamp & (ids[None] < earliest) & (latest >= self.first_timestamp)
        too_late = ids > self.first_timestamp + (len(ids) if self.latest_start is None else self.latest_start)
        return wrong | ((count == 0) & (~is_timestamp | too_late[None]))
