"""Rule out tokens that may not come next: suppressed tokens, tokens that may not come first, wrong timestamps.

A text with timestamps looks like `<|0.00|> words <|2.40|><|2.40|> words <|5.00|>`. Timestamps come in pairs except at
the start and the end, never decrease, and the first is near 0 (Radford et al. 2022, section 2.3, and the original
decoder).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class TokenRules:
    """The rules of a checkpoint for the next token.

    Attributes:
        end: Id of <|endoftext|>. Ids below it are text.
        no_speech: Id of <|nospeech|>.
        first_timestamp: Id of <|0.00|>. All ids from it on are timestamps, 20 ms apart.
        suppressed: Ids that are never written.
        begin_suppressed: Ids that are not written first.
        timestamps: Whether to write timestamps.
        latest_start: Largest first timestamp, in steps of 20 ms. None allows any.
    """

    end: int
    no_speech: int
    first_timestamp: int
    suppressed: tuple[int, ...]
    begin_suppressed: tuple[int, ...]
    timestamps: bool
    latest_start: int | None

    def mask_scores(
        self, scores: Float[Array, "rows vocabulary"], tokens: Int[Array, "rows limit"], count: Int[Array, ""]
    ) -> Float[Array, "rows vocabulary"]:
        """Set the scores of tokens that may not come next to minus infinity.

        Args:
            scores: Logits or log-probabilities of the next token.
            tokens: Tokens written so far. Those from `count` on are ignored.
            count: Number of tokens written so far.

        Returns:
            The masked scores.
        """
        ids = np.arange(scores.shape[1])
        scores = jnp.where(np.isin(ids, self.suppressed)[None], -jnp.inf, scores)
        scores = jnp.where(np.isin(ids, self.begin_suppressed)[None] & (count == 0), -jnp.inf, scores)
        if not self.timestamps:
            return scores
        scores = jnp.where(self._out_of_order(ids, tokens, count), -jnp.inf, scores)
        # A timestamp must follow if all timestamps together are more likely than any single text token.
        log_probabilities = jax.nn.log_softmax(scores)
        timestamps = jax.nn.logsumexp(log_probabilities[:, self.first_timestamp :], axis=-1)
        words = log_probabilities[:, : self.first_timestamp].max(axis=-1)
        return jnp.where((timestamps > words)[:, None] & (ids < self.first_timestamp)[None], -jnp.inf, scores)

    def _out_of_order(
        self, ids: Int[np.ndarray, " vocabulary"], tokens: Int[Array, "rows limit"], count: Int[Array, ""]
    ) -> Bool[Array, "rows vocabulary"]:
        """Return which tokens would break the order of timestamps."""
        is_timestamp, is_word = (ids >= self.first_timestamp)[None], (ids < self.end)[None]

        def timestamp_before(places: int) -> Bool[Array, "rows 1"]:
            at = jnp.maximum(count - places, 0)
            return (jax.lax.dynamic_index_in_dim(tokens, at, axis=1) >= self.first_timestamp) & (count >= places)

        closed, paired = timestamp_before(1), timestamp_before(2) | (count < 2)
        written = jnp.arange(tokens.shape[1])[None] < count
        latest = jnp.where(written, tokens, 0).max(axis=1, keepdims=True)
        # A timestamp that ends a segment may be repeated to begin the next one, but not a third time.
        earliest = jnp.where(closed & ~paired, latest, latest + 1)
        wrong = jnp.where(closed & paired, is_timestamp, False) | jnp.where(closed & ~paired, is_word, False)
        wrong |= is_timestamp & (ids[None] < earliest) & (latest >= self.first_timestamp)
        too_late = ids > self.first_timestamp + (len(ids) if self.latest_start is None else self.latest_start)
        return wrong | ((count == 0) & (~is_timestamp | too_late[None]))
