"""Times of tokens against those that transformers reads from Whisper's cross-attention."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import GenerateEncoderDecoderOutput
from transformers.models.whisper import generation_whisper as original

from speech_emotion_jax.whisper.words import _first_frames, _median_filter, token_times

from ..support.examples import examples

PROMPT = 3
HEADS = [(0, 1), (1, 0), (1, 2)]  # (layer, head)


def attention(steps: int, frames: int, seed: int, sharpness: float = 4.0) -> torch.Tensor:
    """(layers, heads, prompt + steps, frames): noise around a path that moves forward, as softmax gives it."""
    rng = np.random.default_rng(seed)
    path = np.sort(rng.uniform(0, frames, PROMPT + steps))
    distance = (np.arange(frames) - path[:, None]) / 10
    scores = rng.normal(size=(2, 3, PROMPT + steps, frames)) + sharpness * np.exp(-(distance**2))
    return torch.softmax(torch.from_numpy(scores).float(), dim=-1)


def theirs(weights: torch.Tensor, frames: int) -> np.ndarray:
    """One time for each token of the prompt, and for what came after."""
    # generate gives a tuple a step: the prompt at once, then token after token; of each, a tuple a layer.
    prompt, *after = weights.split([PROMPT] + [1] * (weights.shape[2] - PROMPT), dim=2)
    outputs = GenerateEncoderDecoderOutput(
        sequences=torch.zeros(1, weights.shape[2] + 1, dtype=torch.long),
        cross_attentions=tuple(tuple(step[:, None]) for step in (prompt, *after)),
    )
    model = SimpleNamespace(config=SimpleNamespace(decoder_layers=len(weights), median_filter_width=7))
    times = original.WhisperGenerationMixin._extract_token_timestamps(
        model, outputs, HEADS, num_frames=2 * frames, num_input_ids=PROMPT
    )
    return times[0].numpy()


@settings(max_examples=examples(40))
@given(st.integers(1, 30), st.integers(1, 120), st.integers(0, 2**32 - 1))
def test_dynamic_time_warping(steps, frames, seed):
    cost = np.random.default_rng(seed).normal(size=(steps, frames)).astype(np.float32)
    rows, columns = original._dynamic_time_warping(cost.astype(np.float64))
    first = [int(columns[rows == row].min()) for row in range(steps)]
    assert _first_frames(cost).tolist() == first


@settings(max_examples=examples(40))
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_dynamic_time_warping_where_many_paths_cost_the_same(steps, frames, seed):
    cost = np.random.default_rng(seed).integers(0, 3, (steps, frames)).astype(np.float32)
    rows, columns = original._dynamic_time_warping(cost.astype(np.float64))
    assert _first_frames(cost).tolist() == [int(columns[rows == row].min()) for row in range(steps)]


@given(st.integers(1, 4), st.integers(1, 20), st.sampled_from([1, 3, 7]), st.integers(0, 2**32 - 1))
def test_median_filter(steps, frames, width, seed):
    rows = np.random.default_rng(seed).normal(size=(steps, frames)).astype(np.float32)
    expected = original._median_filter(torch.from_numpy(rows)[None, None], width)[0, 0]
    np.testing.assert_array_equal(_median_filter(rows, width), expected.numpy())


@pytest.mark.parametrize(
    ("steps", "frames", "padded"), [(2, 40, 60), (12, 150, 150), (60, 700, 1500), (100, 1500, 1500)]
)
def test_times_of_tokens(steps, frames, padded):
    weights = attention(steps, padded, seed=steps)
    heads = torch.stack([weights[layer, head] for layer, head in HEADS])[:, PROMPT:, :frames]
    times = token_times(heads.numpy())
    reference = theirs(weights, frames)
    # Theirs: zero for the prompt, then when each step begins, the last one twice.
    bounds = np.concatenate([np.zeros(PROMPT), times[:, 0], times[-1:, 1], times[-1:, 1]])
    np.testing.assert_allclose(bounds, reference, atol=1e-6)
    assert np.ptp(bounds) > 0.3 * 0.02 * frames
