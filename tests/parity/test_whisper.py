"""Whisper in JAX against transformers' torch class, on the same random weights: layer by layer, then whole."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import SingleDeviceSharding
from transformers import WhisperForConditionalGeneration

from speech_emotion_jax.checkpoints import load_whisper
from speech_emotion_jax.models.layers import scan_layers
from speech_emotion_jax.models.whisper import Cache, CrossKV, Decoded

from ..support.budgets import LAYER_BUDGET, LOGIT_BUDGET
from ..support.checkpoints import write_whisper

# Relative to the largest value: a bfloat16 has 8 bits, and these models are a few layers deep.
BFLOAT16_BUDGET = 3e-2
ROWS = 3
FRAMES = 130  # of an encoded recording
LENGTH = 9  # tokens of a prompt
PADDING = (0, 2, LENGTH - 1)
ROOM = 24  # tokens in the cache

ARCHITECTURES = {
    "80 bins": {},
    "128 bins, deep encoder": {"num_mel_bins": 128, "encoder_layers": 5, "decoder_layers": 2},
    "deep decoder, one head": {"encoder_layers": 1, "decoder_layers": 5, "decoder_attention_heads": 1},
}


class Both:
    """A random checkpoint in torch and in JAX, three recordings, and what follows of them in torch."""

    def __init__(self, folder: Path, precision: str = "float32"):
        self.torch = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
        self.jax = load_whisper(str(folder), SingleDeviceSharding(jax.devices()[0]), precision).model
        self.jax.decoder.unstack()
        self.graph, self.parameters = nnx.split(self.jax.decoder)
        self.step = jax.jit(self._step, static_argnames="order")
        config = self.torch.config
        shape = (ROWS, 2 * config.max_source_positions, config.num_mel_bins)
        self.log_mel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        self.encoder_states = outputs_of(self.torch.model.encoder.layers, self.encode)
        self.encoded = self.encode().last_hidden_state
        self.heard = self.jax.cross_kv(jnp.asarray(self.encoded.numpy()))

    def encode(self):
        return self.torch.model.encoder(torch.tensor(self.log_mel.swapaxes(1, 2)))

    def tokens(self, length: int, rows: int = ROWS) -> np.ndarray:
        vocabulary = self.torch.config.vocab_size
        return np.random.default_rng(length).integers(0, vocabulary, (rows, length)).astype(np.int32)

    def theirs(self, tokens: np.ndarray, row: int | None = None):
        """Torch on tokens, of one row where it is given: its output, and each layer's after the last norm."""
        rows = slice(None) if row is None else slice(row, row + 1)

        def forward():
            ids = torch.tensor(tokens[rows]).long()
            return self.torch(encoder_outputs=(self.encoded[rows],), decoder_input_ids=ids, output_attentions=True)

        decoder = self.torch.model.decoder
        states = [decoder.layer_norm(each) for each in outputs_of(decoder.layers, forward)]
        return forward(), states

    def ours(
        self, tokens: np.ndarray, *, padding: Sequence[int] = (0,) * ROWS, order: Sequence[int] | None = None
    ) -> Decoded:
        """JAX on tokens from an empty cache, by the layers in `order` or by all."""
        order = tuple(range(self.jax.decoder.depth) if order is None else order)
        heard = CrossKV(*(pick(each, order) for each in self.heard))
        cache = Cache(*(each[: len(order)] for each in self.jax.decoder.empty_cache(ROWS, ROOM)))
        return self.step(self.parameters, tokens, 0, jnp.array(padding, jnp.int32), cache, heard, order=order)

    def _step(self, parameters, tokens, index, padding, cache, heard, *, order) -> Decoded:
        decoder = nnx.merge(self.graph, parameters)
        decoder.layers = nnx.List(pick(decoder.layers, order))
        return decoder(tokens, index, padding, cache, heard)


def pick(items: Sequence, places: Sequence[int]) -> tuple:
    return tuple(items[place] for place in places)


def outputs_of(layers, forward) -> list[torch.Tensor]:
    """What each layer returns."""
    outputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in layers]
    forward()
    for hook in hooks:
        hook.remove()
    return outputs


def assert_close(ours: jax.Array, theirs: torch.Tensor, budget: float = LAYER_BUDGET) -> None:
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() <= budget * np.abs(theirs).max()


@pytest.fixture(autouse=True, scope="module")
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=ARCHITECTURES)
def both(request, tmp_path_factory) -> Both:
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    overrides = {"max_source_positions": FRAMES, **ARCHITECTURES[request.param]}
    return Both(write_whisper(folder, seed=7, config_overrides=overrides))


def test_encoder_states(both):
    encoder = both.jax.encoder

    @jax.jit
    def encode(log_mel):
        embedded = encoder.embed(log_mel)
        states = scan_layers(encoder.layers, lambda layer, x, _: layer(x), embedded, hidden_states=True)[1]
        return states, encoder(log_mel)

    states, last = encode(both.log_mel)
    for ours, theirs in zip(states[1:], both.encoder_states, strict=True):
        assert_close(ours, theirs)
    assert_close(last, both.encoded)


def test_decoder_states_logits_and_cross_attention(both):
    tokens = both.tokens(LENGTH)
    output, states = both.theirs(tokens)
    for layers, theirs in enumerate(states, start=1):
        assert_close(both.ours(tokens, order=range(layers)).states, theirs)
    decoded = both.ours(tokens)
    assert np.abs(both.jax.decoder.logits(decoded.states) - output.logits.numpy()).max() <= LOGIT_BUDGET
    for ours, theirs in zip(decoded.attention, output.cross_attentions, strict=True):
        assert_close(ours, theirs)
        assert theirs.max() > 2 / FRAMES  # it looks somewhere: frames that are mixed up would show


def test_padding_in_front_changes_nothing(both):
    """A batch of prompts of unequal lengths, whatever they are padded with, is what torch makes of each one alone."""
    tokens = both.tokens(LENGTH)
    theirs = [both.theirs(tokens[:, padded:], row) for row, padded in enumerate(PADDING)]
    for layers in range(1, both.jax.decoder.depth + 1):
        states = both.ours(tokens, padding=PADDING, order=range(layers)).states
        for row, padded in enumerate(PADDING):
            assert_close(states[row : row + 1, padded:], theirs[row][1][layers - 1])
    attention = both.ours(tokens, padding=PADDING).attention
    for row, padded in enumerate(PADDING):
        for layer, expected in enumerate(theirs[row][0].cross_attentions):
            assert_close(attention[layer][row : row + 1, :, padded:], expected)


def test_token_by_token_is_all_at_once(both):
    """Until the cache is used up; the prompt is padded in front."""
    tokens, padding, order = both.tokens(ROOM), jnp.array(PADDING, jnp.int32), tuple(range(both.jax.decoder.depth))
    cache, states = both.jax.decoder.empty_cache(ROWS, ROOM), []
    for start, stop in [(0, LENGTH), *((at, at + 1) for at in range(LENGTH, ROOM))]:
        step = tokens[:, start:stop]
        decoded = both.step(both.parameters, step, jnp.int32(start), padding, cache, both.heard, order=order)
        cache = decoded.cache
        states.append(decoded.states)
    joined = jnp.concatenate(states, axis=1)
    at_once = both.ours(tokens, padding=PADDING).states
    for row, padded in enumerate(PADDING):
        theirs = both.theirs(tokens[:, padded:], row)[1][-1]
        assert_close(joined[row : row + 1, padded:], theirs)
        assert_close(at_once[row : row + 1, padded:], theirs)


def test_hypotheses_share_a_recording(both):
    """Two rows for each recording, its keys and values held once."""
    rows, decoder = 2 * ROWS, both.jax.decoder
    tokens, padding = both.tokens(LENGTH, rows=rows), jnp.zeros(rows, jnp.int32)
    order = tuple(range(decoder.depth))
    states = both.step(
        both.parameters, tokens, 0, padding, decoder.empty_cache(rows, LENGTH), both.heard, order=order
    ).states
    theirs = both.torch(
        encoder_outputs=(both.encoded.repeat_interleave(2, dim=0),), decoder_input_ids=torch.tensor(tokens).long()
    )
    assert np.abs(decoder.logits(states) - theirs.logits.numpy()).max() <= LOGIT_BUDGET


def test_bfloat16(tmp_path):
    """Matrices alone are rounded, and what a layer hands on is not."""
    folder = write_whisper(tmp_path / "tiny", seed=7, config_overrides={"max_source_positions": FRAMES})
    both = Both(folder, "bfloat16")
    assert_close(both.jax.encoder(jnp.asarray(both.log_mel)), both.encoded, BFLOAT16_BUDGET)
    tokens = both.tokens(LENGTH)
    decoded = both.ours(tokens)
    logits, theirs = both.jax.decoder.logits(decoded.states), both.theirs(tokens)[0].logits
    assert_close(logits, theirs, BFLOAT16_BUDGET)
    assert np.abs(logits - theirs.numpy()).max() > 100 * LOGIT_BUDGET  # they are rounded
    assert decoded.cache.keys[0].dtype == jnp.bfloat16
    assert decoded.states.dtype == logits.dtype == jnp.float32


def test_swapped_layers_are_seen(both):
    """The random weights have unit gain: a converter that mixed up two layers could not pass these tests."""
    tokens, order = both.tokens(LENGTH), range(both.jax.decoder.depth)
    logits = [both.jax.decoder.logits(both.ours(tokens, order=each).states) for each in (order, order[::-1])]
    assert np.abs(logits[0] - logits[1]).max() > 0.1
