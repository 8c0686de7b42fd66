"""The search for the most likely transcript, the whole loop compiled: greedy, sampled, or with beams.

All rows of a batch share the place of their next token: prompts are padded in front to one length. The loop ends when
every row has written its end or `limit` tokens. Every step reads the whole cache, so it starts small and grows, at most
twice: few windows hold more than 64 tokens.
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

STAGES = (64, 160)  # tokens that the cache has room for at first, and when it has grown once; then for all


class Prompt(NamedTuple):
    """What stands before the transcript: earlier text if there is any, then <|startoftranscript|> and what follows it.

    `tokens` are padded in front; `padding` says by how many places.
    """

    tokens: Int[Array, "batch prompt"]
    padding: Int[Array, " batch"]


class SearchResult(NamedTuple):
    """`tokens` without prompt and end, `lengths` of them, the rest arbitrary.

    `log_probability` is the mean over the tokens and the end token, natural logarithm; `no_speech` the probability of
    <|nospeech|> at the start.
    """

    tokens: Int[Array | np.ndarray, "batch limit"]
    lengths: Int[Array | np.ndarray, " batch"]
    log_probability: Float[Array | np.ndarray, " batch"]
    no_speech: Float[Array | np.ndarray, " batch"]


class _Prefilled(NamedTuple):
    logits: Float[Array, "batch vocabulary"]
    no_speech: Float[Array, " batch"]
    cache: Cache


def _prefill(
    model: Whisper, cross_kv: CrossKV, prompt: Prompt, start: int, rules: TokenRules, limit: int
) -> _Prefilled:
    """Decode the prompt at once, into a cache of the first stage."""
    decoder = model.decoder
    batch, length = prompt.tokens.shape
    cache = decoder.empty_cache(batch, length + min(STAGES[0], limit))
    decoded = decoder(prompt.tokens, 0, prompt.padding, cache, cross_kv)
    logits = decoder.logits(decoded.states[:, np.array([length - start, length - 1])])
    return _Prefilled(logits[:, 1], jax.nn.softmax(logits[:, 0])[:, rules.no_speech], decoded.cache)


def _run(
    state: Any,
    unfinished: Callable[[Any], jax.Array],
    advance: Callable[[Any], Any],
    result: Callable[[Any], tuple[jax.Array, ...]],
    *,
    limit: int,
) -> tuple[jax.Array, ...]:
    """`result` of the state after the last step; a state counts what was `written` and has a `cache`, which grows."""

    def stage(state: Any, rooms: tuple[int, ...]) -> tuple[jax.Array, ...]:
        room, *rest = rooms
        last = jax.lax.while_loop(lambda each: unfinished(each) & (each.written < room), advance, state)
        if not rest:
            return result(last)

        def grow(x: jax.Array) -> jax.Array:
            return jnp.pad(x, ((0, 0), (0, rest[0] - room), (0, 0)))

        def go_on(state: Any) -> tuple[jax.Array, ...]:
            return stage(state._replace(cache=jax.tree.map(grow, state.cache)), tuple(rest))

        return jax.lax.cond(unfinished(last), go_on, result, last)

    return stage(state, (*(room for room in STAGES if room < limit), limit))


def greedy_search(
    model: Whisper,
    cross_kv: CrossKV,
    prompt: Prompt,
    *,
    start: int,
    rules: TokenRules,
    limit: int,
    temperature: Float[Array, ""] | None = None,
    key: PRNGKeyArray | None = None,
) -> SearchResult:
    """The likeliest token at each place or, at a `temperature` above 0, one drawn by its probability.

    `start` is the number of prompt tokens from <|startoftranscript|> on; `limit` the most tokens that are written.
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
        if temperature is None or key is None:
            token = scores.argmax(axis=-1)
        else:
            token = jax.random.categorical(jax.random.fold_in(key, state.written), scores / temperature)
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
    """The likeliest transcript that `beams` hypotheses find, by mean log-probability.

    Ends for a recording as transformers' beam search does: `beams` transcripts are complete, and the best running
    hypothesis, by its mean so far, is below the worst of them.
    """
    decoder = model.decoder
    batch, length = prompt.tokens.shape
    never = jnp.float32(-1e9)
    first_logits, no_speech, first_cache = _prefill(model, cross_kv, prompt, start, rules, limit)
    padding = jnp.repeat(prompt.padding, beams)

    class State(NamedTuple):
        written: Int[Array, ""]
        tokens: Int[Array, "batch beams limit"]  # running hypotheses, best first
        scores: Float[Array, "batch beams"]  # their summed log-probabilities
        done_tokens: Int[Array, "batch beams limit"]  # complete transcripts, best first
        done_scores: Float[Array, "batch beams"]  # their mean log-probabilities
        done: Bool[Array, "batch beams"]
        improvable: Bool[Array, " batch"]
        dead_end: Bool[Array, ""]  # no hypothesis can go on
        cache: Cache

    def write(logits: Float[Array, "rows vocabulary"], state: State) -> State:
        vocabulary, count = logits.shape[1], state.written
        flat = state.tokens.reshape(batch * beams, limit)
        gained = rules.mask_scores(jax.nn.log_softmax(logits), flat, count).reshape(batch, beams, vocabulary)
        totals = (gained + state.scores[..., None]).reshape(batch, beams * vocabulary)
        # Twice as many as there are beams: enough go on even where all the best ones end.
        totals, places = jax.lax.top_k(totals, 2 * beams)
        parents, ids = places // vocabulary, (places % vocabulary).astype(jnp.int32)
        candidates = _pick(state.tokens, parents)
        candidates = jax.lax.dynamic_update_slice(candidates, ids[..., None], (jnp.int32(0), jnp.int32(0), count))
        ending = (ids == rules.end) | (count + 1 == limit)

        scores, chosen = jax.lax.top_k(totals + ending * never, beams)

        complete = ending & (jnp.arange(2 * beams) < beams)[None]
        means = totals / (count + 1)
        means = jnp.where(complete & state.improvable[:, None], means, means + never)
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
        jnp.full((batch, beams), never).at[:, 0].set(0.0),  # all are the same yet: only one may be continued
        unwritten,
        jnp.full((batch, beams), never),
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
    """The cache of each recording once for each of its hypotheses."""
    by_row = x.reshape(batch, 1, -1, *x.shape[1:])
    return jnp.broadcast_to(by_row, (batch, beams, *by_row.shape[2:])).reshape(-1, *x.shape[1:])


def _follow(cache: Cache, parents: Int[Array, "batch beams"]) -> Cache:
    """The cache in which each hypothesis continues its parent; recordings keep to themselves, on their own device."""

    def follow(x: jax.Array) -> jax.Array:
        batch, beams = parents.shape
        return _pick(x.reshape(batch, beams, -1, *x.shape[1:]), parents).reshape(x.shape)

    return jax.tree.map(follow, cache)


def _pick(x: Array, places: Int[Array, "batch picked"]) -> Array:
    """For each recording the entries of `x` (batch, hypotheses, ...) at its places."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1)
