"""Search for the most likely tokens of each window: greedy, sampled, or with beams. The whole loop is compiled.

Prompts are padded in front to one length, so that the next token of every row has the same position. The loop ends when
every row has written its end token or `limit` tokens. Every step reads the whole key-value cache. The cache therefore
starts small and grows at most twice, since few windows hold more than 64 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..models import Cache, CrossKV, Whisper
from .rules import TokenRules

STAGES = (64, 160)  # tokens for which the cache has room at first and after it has grown once; then `limit`


class Prompt(NamedTuple):
    """The prompts of a batch: earlier text, if any, then <|startoftranscript|> and the tokens of language and task.

    Attributes:
        tokens: Token ids, padded in front, int32.
        padding: Number of padding tokens in each row, int32.
    """

    tokens: Int[Array, "batch prompt"]
    padding: Int[Array, " batch"]


class Sampling(NamedTuple):
    """How to draw tokens.

    Attributes:
        temperature: Divisor of the logits, above 0.
        key: Random key. Step i draws with `fold_in(key, i)`.
    """

    temperature: Float[Array, ""]
    key: PRNGKeyArray


class SearchResult(NamedTuple):
    """The decoded tokens of a batch.

    Attributes:
        tokens: Token ids without the prompt, int32. Those from `lengths` on are meaningless.
        lengths: Number of tokens in each row, without the end token, int32.
        log_probability: Mean natural log-probability over the tokens and the end token, float32.
        no_speech: Probability of <|nospeech|> after <|startoftranscript|>, float32.
    """

    tokens: Int[Array | np.ndarray, "batch limit"]
    lengths: Int[Array | np.ndarray, " batch"]
    log_probability: Float[Array | np.ndarray, " batch"]
    no_speech: Float[Array | np.ndarray, " batch"]


class _Prefill(NamedTuple):
    """The state after the prompt."""

    logits: Float[Array, "batch vocabulary"]
    no_speech: Float[Array, " batch"]
    cache: Cache


def _prefill(model: Whisper, cross_kv: CrossKV, prompt: Prompt, start: int, rules: TokenRules, limit: int) -> _Prefill:
    """Decode the whole prompt in one step, into a cache of the first stage's size."""
    decoder = model.decoder
    batch, length = prompt.tokens.shape
    cache = decoder.empty_cache(batch, length + min(STAGES[0], limit))
    decoded = decoder(prompt.tokens, 0, prompt.padding, cache, cross_kv)
    logits = decoder.logits(decoded.states[:, np.array([length - start, length - 1])])
    return _Prefill(logits[:, 1], jax.nn.softmax(logits[:, 0])[:, rules.no_speech], decoded.cache)


def _run(
    state: Any,
    unfinished: Callable[[Any], jax.Array],
    advance: Callable[[Any], Any],
    result: Callable[[Any], tuple[jax.Array, ...]],
    *,
    limit: int,
) -> tuple[jax.Array, ...]:
    """Run a search to its end, and grow the cache from stage to stage.

    Args:
        state: The first state. It has the number of tokens `written` and the `cache`.
        unfinished: Whether a state needs another step.
        advance: The step from a state to the next.
        result: What to return of the last state.
        limit: Tokens to write at most.

    Returns:
        The result of the last state.
    """

    def stage(state: Any, sizes: tuple[int, ...]) -> tuple[jax.Array, ...]:
        size, *rest = sizes
        last = jax.lax.while_loop(lambda each: unfinished(each) & (each.written < size), advance, state)
        if not rest:
            return result(last)

        def grow(x: jax.Array) -> jax.Array:
            return jnp.pad(x, ((0, 0), (0, rest[0] - size), (0, 0)))

        def go_on(state: Any) -> tuple[jax.Array, ...]:
            return stage(state._replace(cache=jax.tree.map(grow, state.cache)), tuple(rest))

        return jax.lax.cond(unfinished(last), go_on, result, last)

    return stage(state, (*(size for size in STAGES if size < limit), limit))


def greedy_search(
    model: Whisper,
    cross_kv: CrossKV,
    prompt: Prompt,
    *,
    start: int,
    rules: TokenRules,
    limit: int,
    sampling: Sampling | None = None,
) -> SearchResult:
    """Decode the most likely token at each step, or draw each token by its probability.

    Args:
        model: The model.
        cross_kv: Keys and values of the encoded windows.
        prompt: The prompts.
        start: Number of prompt tokens from <|startoftranscript|> on, the same in all rows (static).
        rules: Which tokens may follow (static).
        limit: Tokens to write at most (static).
        sampling: How to draw tokens. None takes the most likely ones.

    Returns:
        The decoded tokens of each row.
    """
    decoder = model.decoder
    batch, length = prompt.tokens.shape
    logits, no_speech, cache = _prefill(model, cross_kv, prompt, start, rules, limit)

    class State(NamedTuple):
        written: Int[Array, ""]
        tokens: Int[Array, "batch limit"]
        finished: Bool[Array, " batch"]
        log_probability: Float[Array, " batch"]
        cache: Cache

    def write(logits: jax.Array, state: State) -> State:
        scores = rules.mask_scores(logits, state.tokens, state.written)
        if sampling is None:
            token = scores.argmax(axis=-1)
        else:
            key = jax.random.fold_in(sampling.key, state.written)
            token = jax.random.categorical(key, scores / sampling.temperature)
        token = jnp.where(state.finished, rules.end, token).astype(jnp.int32)
        gained = jnp.take_along_axis(jax.nn.log_softmax(scores), token[:, None], axis=1)[:, 0]
        return State(
            state.written + 1,
            jax.lax.dynamic_update_slice(state.tokens, token[:, None], (jnp.int32(0), state.written)),
            state.finished | (token == rules.end),
            state.log_probability + jnp.where(state.finished, 0.0, gained),
            state.cache,
        )

    def unfinished(state: State) -> jax.Array:
        return ~state.finished.all() & (state.written < limit)

    def advance(state: State) -> State:
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.written - 1, 1, axis=1)
        decoded = decoder(token, length + state.written - 1, prompt.padding, state.cache, cross_kv)
        return write(decoder.logits(decoded.states[:, 0]), state._replace(cache=decoded.cache))

    empty = State(
        jnp.int32(0),
        jnp.full((batch, limit), rules.end, jnp.int32),
        jnp.zeros(batch, bool),
        jnp.zeros(batch, jnp.float32),
        cache,
    )
    tokens, total = _run(
        write(logits, empty), unfinished, advance, lambda last: (last.tokens, last.log_probability), limit=limit
    )
    lengths = (tokens != rules.end).sum(axis=1, dtype=jnp.int32)
    return SearchResult(tokens, lengths, total / (lengths + 1), no_speech)


def beam_search(
    model: Whisper, cross_kv: CrossKV, prompt: Prompt, *, start: int, rules: TokenRules, limit: int, beams: int
) -> SearchResult:
    """Search with several hypotheses for the text of the highest mean log-probability.

    The search of a row ends when `beams` texts are complete and the best running hypothesis has a mean log-probability
    below the worst of them, as in transformers.

    Args:
        model: The model.
        cross_kv: Keys and values of the encoded windows.
        prompt: The prompts.
        start: Number of prompt tokens from <|startoftranscript|> on, the same in all rows (static).
        rules: Which tokens may follow (static).
        limit: Tokens to write at most (static).
        beams: Number of hypotheses (static).

    Returns:
        The best tokens of each row.
    """
    decoder = model.decoder
    batch, length = prompt.tokens.shape
    penalty = jnp.float32(-1e9)  # lower than any sum of log-probabilities, and finite, so that sums stay ordered
    first_logits, no_speech, first_cache = _prefill(model, cross_kv, prompt, start, rules, limit)
    padding = jnp.repeat(prompt.padding, beams)

    class State(NamedTuple):
        written: Int[Array, ""]
        tokens: Int[Array, "batch beams limit"]  # running hypotheses, best first
        scores: Float[Array, "batch beams"]  # their summed log-probabilities
        done_tokens: Int[Array, "batch beams limit"]  # complete texts, best first
        done_scores: Float[Array, "batch beams"]  # their mean log-probabilities
        done: Bool[Array, "batch beams"]
        improvable: Bool[Array, " batch"]  # whether a running hypothesis may still win
        dead_end: Bool[Array, ""]  # no hypothesis can go on
        cache: Cache

    def write(logits: Float[Array, "rows vocabulary"], state: State) -> State:
        vocabulary, count = logits.shape[1], state.written
        flat = state.tokens.reshape(batch * beams, limit)
        gained = rules.mask_scores(jax.nn.log_softmax(logits), flat, count).reshape(batch, beams, vocabulary)
        totals = (gained + state.scores[..., None]).reshape(batch, beams * vocabulary)
        # Of 2 * beams candidates at least `beams` continue, even if all of the best ones end.
        totals, places = jax.lax.top_k(totals, 2 * beams)
        parents, ids = places // vocabulary, (places % vocabulary).astype(jnp.int32)
        candidates = _pick(state.tokens, parents)
        candidates = jax.lax.dynamic_update_slice(candidates, ids[..., None], (jnp.int32(0), jnp.int32(0), count))
        ending = (ids == rules.end) | (count + 1 == limit)

        scores, chosen = jax.lax.top_k(totals + ending * penalty, beams)

        complete = ending & (jnp.arange(2 * beams) < beams)[None]
        means = totals / (count + 1)
        means = jnp.where(complete & state.improvable[:, None], means, means + penalty)
        done_scores, best = jax.lax.top_k(jnp.concatenate([state.done_scores, means], axis=1), beams)
        done = _pick(jnp.concatenate([state.done, complete], axis=1), best)

        reachable = scores[:, 0] / (count + 1)
        settled = done.all(axis=1) & (reachable <= done_scores.min(axis=1))
        return State(
            count + 1,
            _pick(candidates, chosen),
            scores,
            _pick(jnp.concatenate([state.done_tokens, candidates], axis=1), best),
            done_scores,
            done,
            state.improvable & ~settled,
            ending.all(),
            _follow(state.cache, _pick(parents, chosen)),
        )

    def unfinished(state: State) -> jax.Array:
        return state.improvable.any() & ~state.dead_end

    def advance(state: State) -> State:
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.written - 1, 1, axis=2).reshape(batch * beams, 1)
        decoded = decoder(token, length + state.written - 1, padding, state.cache, cross_kv)
        return write(decoder.logits(decoded.states[:, 0]), state._replace(cache=decoded.cache))

    unwritten = jnp.full((batch, beams, limit), rules.end, jnp.int32)
    empty = State(
        jnp.int32(0),
        unwritten,
        jnp.full((batch, beams), penalty).at[:, 0].set(0.0),  # all beams are equal at first, so only one may continue
        unwritten,
        jnp.full((batch, beams), penalty),
        jnp.zeros((batch, beams), bool),
        jnp.ones(batch, bool),
        jnp.bool_(False),
        jax.tree.map(partial(_repeat, batch, beams), first_cache),
    )
    tokens, scores = _run(
        write(jnp.repeat(first_logits, beams, axis=0), empty),
        unfinished,
        advance,
        lambda last: (last.done_tokens[:, 0], last.done_scores[:, 0]),
        limit=limit,
    )
    return SearchResult(tokens, (tokens != rules.end).sum(axis=1, dtype=jnp.int32), scores, no_speech)


def _repeat(batch: int, beams: int, x: Array) -> Array:
    """Repeat the cache of each recording for each of its hypotheses."""
    by_row = x.reshape(batch, 1, -1, *x.shape[1:])
    return jnp.broadcast_to(by_row, (batch, beams, *by_row.shape[2:])).reshape(-1, *x.shape[1:])


def _follow(cache: Cache, parents: Int[Array, "batch beams"]) -> Cache:
    """Give each hypothesis the cache of its parent. Recordings are not mixed, so each stays on its own device."""

    def follow(x: jax.Array) -> jax.Array:
        batch, beams = parents.shape
        return _pick(x.reshape(batch, beams, -1, *x.shape[1:]), parents).reshape(x.shape)

    return jax.tree.map(follow, cache)


def _pick(x: Array, places: Int[Array, "batch picked"]) -> Array:
    """Select the entries of `x` (batch, hypotheses, ...) at the given places of each recording."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1)
