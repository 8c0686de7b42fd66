"""The compiled search on tiny random models, against plain loops that have no cache, no batch and no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from speech_emotion_jax.config import WhisperConfig
from speech_emotion_jax.models.whisper import CrossKV, Whisper
from speech_emotion_jax.whisper.rules import TokenRules
from speech_emotion_jax.whisper.search import STAGES, Prompt, Sampling, SearchResult, beam_search, greedy_search

CONFIG = WhisperConfig(
    vocab_size=24,
    num_mel_bins=4,
    d_model=16,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_ffn_dim=24,
    max_source_positions=6,
    max_target_positions=192,
)
END, NO_SPEECH, FIRST_TIMESTAMP = 10, 12, 13
LIMIT = 9
END_BONUS = 0.5  # to its embedding, along what all states have in common
FREE = TokenRules(END, NO_SPEECH, FIRST_TIMESTAMP, (), (), False, None)
STEERED = TokenRules(END, NO_SPEECH, FIRST_TIMESTAMP, (0, 11, 12), (END, 4), True, 5)
RULES = pytest.mark.parametrize("rules", [FREE, STEERED], ids=["free", "timestamps"])
# Prompts of different lengths; the last three tokens, from 11 on, are what all have.
PROMPTS = ([11, 3, 2], [5, 1, 7, 11, 3, 2], [8, 11, 3, 2])
START = 3
PROMPT_LENGTH = 6


@cache
def whisper(seed: int, vocabulary: int = CONFIG.vocab_size) -> Whisper:
    model = Whisper(replace(CONFIG, vocab_size=vocabulary), rngs=nnx.Rngs(seed))
    # So that some tokens are likelier than others, and differ from place to place.
    model.decoder.embed_tokens[...] *= 20.0
    model.decoder.embed_positions[...] *= 50.0
    model.decoder.layer_norm.bias[...] += 0.25
    if vocabulary > END:  # so that transcripts end, now and then
        model.decoder.embed_tokens[...] = model.decoder.embed_tokens[...].at[END].add(END_BONUS)
    model.decoder.unstack()
    return model


@cache
def heard(seed: int, recordings: int = len(PROMPTS), vocabulary: int = CONFIG.vocab_size) -> CrossKV:
    model, sounds = whisper(seed, vocabulary), np.random.default_rng(seed)
    features = sounds.normal(size=(recordings, 2 * CONFIG.max_source_positions, CONFIG.num_mel_bins))
    return model.cross_kv(model.encoder(jnp.asarray(features, jnp.float32)))


def one(row: int, of: CrossKV) -> CrossKV:
    return jax.tree.map(lambda x: x[row : row + 1], of)


def padded(prompts: Sequence[Sequence[int]]) -> Prompt:
    padding = [PROMPT_LENGTH - len(prompt) for prompt in prompts]
    tokens = [[0] * more + list(prompt) for more, prompt in zip(padding, prompts, strict=True)]
    return Prompt(jnp.array(tokens, jnp.int32), jnp.array(padding, jnp.int32))


# Most of the time of these tests is LLVM's.
quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@partial(quickly, static_argnames=("graph", "start", "rules", "limit", "beams", "sampled"))
def _compiled(graph, state, recordings, prompt, temperature, key, *, start, rules, limit, beams, sampled):
    model = nnx.merge(graph, state)
    if beams:
        return beam_search(model, recordings, prompt, start=start, rules=rules, limit=limit, beams=beams)
    sampling = Sampling(temperature, key) if sampled else None
    return greedy_search(model, recordings, prompt, start=start, rules=rules, limit=limit, sampling=sampling)


def search(
    model: Whisper,
    recordings: CrossKV,
    prompts: Sequence[Sequence[int]],
    rules: TokenRules,
    *,
    limit: int = LIMIT,
    beams: int = 0,
    temperature: float | None = None,
    seed: int = 0,
) -> SearchResult:
    graph, state = nnx.split(model)
    found = _compiled(
        graph,
        state,
        recordings,
        padded(prompts),
        jnp.float32(temperature or 0.0),
        jax.random.key(seed),
        start=START,
        rules=rules,
        limit=limit,
        beams=beams,
        sampled=temperature is not None,
    )
    return SearchResult(*map(np.asarray, found))


def texts(found: SearchResult) -> list[list[int]]:
    return [tokens[:length].tolist() for tokens, length in zip(found.tokens, found.lengths, strict=True)]


# The plain loops


@partial(quickly, static_argnames="graph")
def _all_logits(graph, state, recording, tokens):
    decoder = nnx.merge(graph, state).decoder
    empty = decoder.empty_cache(1, tokens.shape[1])
    return decoder.logits(decoder(tokens, 0, jnp.zeros(1, jnp.int32), empty, recording).states[0])


def logits_after(model: Whisper, recording: CrossKV, tokens: Sequence[int]) -> np.ndarray:
    """The next token's, everything computed anew. What stands behind the tokens can't change it."""
    behind = [1] * (CONFIG.max_target_positions - len(tokens))
    graph, state = nnx.split(model)
    return np.asarray(_all_logits(graph, state, recording, jnp.array([[*tokens, *behind]], jnp.int32)))[len(tokens) - 1]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


_allow = quickly(TokenRules.mask_scores, static_argnums=0)


def under_rules(rules: TokenRules, logits: np.ndarray, written: Sequence[int]) -> np.ndarray:
    tokens = np.array([[*written, *[0] * (LIMIT - len(written))]], np.int32)
    return np.asarray(_allow(rules, logits[None], tokens, np.int32(len(written))))[0]


def plain_greedy(
    model: Whisper, recording: CrossKV, prompt: Sequence[int], rules: TokenRules
) -> tuple[list[int], float]:
    """The transcript, and its mean log-probability."""
    written: list[int] = []
    total = 0.0
    while len(written) < LIMIT:
        scores = log_softmax(under_rules(rules, logits_after(model, recording, [*prompt, *written]), written))
        token = int(scores.argmax())
        total += scores[token]
        if token == END:
            break
        written.append(token)
    return written, total / (len(written) + 1)


# Greedy


@RULES
@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_a_plain_loop(rules: TokenRules, seed: int):
    model, recordings = whisper(seed), heard(seed)
    found = search(model, recordings, PROMPTS, rules)
    for row, prompt in enumerate(PROMPTS):
        tokens, log_probability = plain_greedy(model, one(row, recordings), prompt, rules)
        assert texts(found)[row] == tokens
        assert found.log_probability[row] == pytest.approx(log_probability, abs=1e-4)
        first = np.exp(log_softmax(logits_after(model, one(row, recordings), prompt[: len(prompt) - START + 1])))
        assert found.no_speech[row] == pytest.approx(first[NO_SPEECH], abs=1e-5)


def test_transcripts_differ_and_end():
    """Else the tests above and below would show little."""
    found = [text for seed in range(4) for text in texts(search(whisper(seed), heard(seed), PROMPTS, FREE))]
    assert len({tuple(text) for text in found}) > 8
    assert any(len(text) == LIMIT for text in found)
    assert any(0 < len(text) < LIMIT for text in found)
    assert any(len(set(text)) > 2 for text in found)


@pytest.mark.parametrize(("limit", "beams"), [(1, 0), (5, 0), (1, 4)])
def test_no_more_than_the_limit_is_written(limit: int, beams: int):
    found = search(whisper(1), heard(1), PROMPTS, FREE, limit=limit, beams=beams)
    assert found.tokens.shape == (len(PROMPTS), limit)
    assert (found.lengths <= limit).all()
    if not beams:
        assert texts(found) == [text[:limit] for text in texts(search(whisper(1), heard(1), PROMPTS, FREE))]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [0, 2])
def test_long_transcripts_outgrow_the_first_caches(beams: int):
    """Of every stage, that is, and each token as if all before it were read anew."""
    endless = replace(FREE, suppressed=(END,))
    limit = STAGES[-1] + 10
    found = search(whisper(0), one(0, heard(0)), PROMPTS[:1], endless, limit=limit, beams=beams)
    [text] = texts(found)
    assert len(text) == limit
    graph, state = nnx.split(whisper(0))
    tokens = np.array([[*PROMPTS[0], *text, *[0] * (CONFIG.max_target_positions - limit - START)]], np.int32)
    logits = np.asarray(_all_logits(graph, state, one(0, heard(0)), tokens))[START - 1 :][:limit]
    if beams:
        steps = np.array([log_softmax(each)[token] for each, token in zip(logits, text, strict=True)])
        assert found.log_probability[0] == pytest.approx(steps.mean(), abs=1e-3)
    else:
        assert text == np.where(np.arange(CONFIG.vocab_size) == END, -np.inf, logits).argmax(axis=1).tolist()


@pytest.mark.parametrize("beams", [0, 4])
def test_a_row_does_not_depend_on_the_others(beams: int):
    together = search(whisper(2), heard(2), PROMPTS, STEERED, beams=beams)
    for row, prompt in enumerate(PROMPTS):
        alone = search(whisper(2), one(row, heard(2)), [prompt], STEERED, beams=beams)
        assert texts(alone) == [texts(together)[row]]
        assert alone.log_probability[0] == pytest.approx(together.log_probability[row], abs=1e-5)
        assert alone.no_speech[0] == pytest.approx(together.no_speech[row], abs=1e-6)


# Sampling


def test_draws_are_those_of_the_seed():
    def draw(seed: int, temperature: float = 1.0) -> list[list[int]]:
        return texts(search(whisper(0), heard(0), PROMPTS, FREE, temperature=temperature, seed=seed))

    assert draw(1) == draw(1)
    assert len({str(draw(seed)) for seed in range(6)}) > 3


def test_a_low_temperature_is_greedy():
    cold = search(whisper(0), heard(0), PROMPTS, STEERED, temperature=1e-4)
    assert texts(cold) == texts(search(whisper(0), heard(0), PROMPTS, STEERED))


@pytest.mark.slow
def test_first_draws_are_as_probable_as_the_model_says():
    """At temperature 2, which lets the less probable ones come up."""
    model, recordings = whisper(0), heard(0)
    draws = 150
    firsts = np.array(
        [search(model, recordings, PROMPTS, FREE, temperature=2.0, seed=seed).tokens[:, 0] for seed in range(draws)]
    )
    for row, prompt in enumerate(PROMPTS):
        expected = np.exp(log_softmax(logits_after(model, one(row, recordings), prompt) / 2))
        assert expected.max() < 0.9
        drawn = np.bincount(firsts[:, row], minlength=CONFIG.vocab_size) / draws
        assert (np.abs(drawn - expected) < 4.5 * np.sqrt(expected * (1 - expected) / draws) + 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_what_is_drawn_obeys_the_rules(temperature: float):
    for seed in range(4):
        for text in texts(search(whisper(0), heard(0), PROMPTS, STEERED, temperature=temperature, seed=seed)):
            assert FIRST_TIMESTAMP <= text[0] <= FIRST_TIMESTAMP + 5
            assert not set(text) & set(STEERED.suppressed)


# Beams


def mean_log_probability(model: Whisper, recording: CrossKV, prompt: Sequence[int], text: Sequence[int]) -> float:
    """Of a text and its end, where the limit leaves room for one; suppressed tokens keep their share."""
    written = [*text, END][:LIMIT]
    steps = (
        log_softmax(logits_after(model, recording, [*prompt, *written[:n]]))[written[n]] for n in range(len(written))
    )
    return float(sum(steps)) / len(written)


@RULES
def test_scores_of_beams_are_those_of_their_texts(rules: TokenRules):
    for seed in range(3):
        model, recordings = whisper(seed), heard(seed)
        found = search(model, recordings, PROMPTS, rules, beams=4)
        for row, prompt in enumerate(PROMPTS):
            expected = mean_log_probability(model, one(row, recordings), prompt, texts(found)[row])
            assert found.log_probability[row] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_one_beam_is_greedy_unless_it_finds_a_better_end():
    """Greedy takes the first end that is likelier than any token; one beam goes on while its mean is above."""
    same = 0
    for seed in range(8):
        model, recordings = whisper(seed), heard(seed)
        first, best = (search(model, recordings, PROMPTS, FREE, beams=beams) for beams in (0, 1))
        for row, (one_text, other) in enumerate(zip(texts(first), texts(best), strict=True)):
            same += one_text == other
            if one_text != other:
                assert other[: len(one_text)] != one_text or len(one_text) < LIMIT
                assert best.log_probability[row] > first.log_probability[row]
    assert same >= 16


@pytest.mark.slow
def test_more_beams_find_what_is_likelier():
    better = worse = 0
    for seed in range(8):
        model, recordings = whisper(seed), heard(seed)
        first, best = (search(model, recordings, PROMPTS, FREE, beams=beams) for beams in (0, 4))
        for row, prompt in enumerate(PROMPTS):
            pair = (texts(found)[row] for found in (first, best))
            before, after = (mean_log_probability(model, one(row, recordings), prompt, text) for text in pair)
            better += after > before + 1e-5
            worse += after < before - 1e-5
    assert better >= 6
    assert worse <= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_likeliest_of_all_transcripts(seed: int):
    """Four tokens and an end, at most three of them: every transcript can be tried."""
    end, limit = 4, 3
    rules = TokenRules(end, 0, 5, (), (), False, None)
    model, recording = whisper(seed, 5), heard(seed, 1, 5)
    prompt = [3, 1, 2]
    found = search(model, recording, [prompt], rules, limit=limit, beams=20)

    scores: dict[tuple[int, ...], float] = {}
    for tokens in product(range(5), repeat=limit):
        written = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        steps = [log_softmax(logits_after(model, recording, [*prompt, *written[:n]])) for n in range(len(written))]
        scores[written] = float(sum(step[token] for step, token in zip(steps, written, strict=True))) / len(written)
    best = max(scores, key=scores.__getitem__)
    assert texts(found) == [[token for token in best if token != end]]
    assert found.log_probability[0] == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.slow
def test_beams_obey_the_rules():
    for seed in range(3):
        for text in texts(search(whisper(seed), heard(seed), PROMPTS, STEERED, beams=4)):
            assert FIRST_TIMESTAMP <= text[0] <= FIRST_TIMESTAMP + 5
            assert not set(text) & set(STEERED.suppressed)
