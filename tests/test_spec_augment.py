"""SpecAugment's spans: what any draw obeys, and how draws are distributed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speech_emotion_jax.models.spec_augment import masked_spans

from .conftest import NEEDS_TORCH
from .support.examples import examples

DRAWS = 3000
SIGMAS = 5  # what a mean may be off by; with some thousand means compared, a correct draw fails once in a thousand runs


@settings(max_examples=examples(40))
@given(
    size=st.sampled_from([1, 7, 40, 100]),
    lengths=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    fraction=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    span=st.sampled_from([1, 4, 10]),
    least=st.sampled_from([0, 2, 30]),
    seed=st.integers(0, 999),
)
@example(size=40, lengths=[1.0, 0.075, 0.0], fraction=0.9, span=4, least=0, seed=0)
def test_spans_of_any_draw(size, lengths, fraction, span, least, seed):
    rows = [round(length * size) for length in lengths]

    def draw() -> np.ndarray:
        key = jax.random.key(seed)
        return np.asarray(masked_spans(key, jnp.array(rows), size, fraction=fraction, span=span, least=least))

    masked = draw()
    assert masked.shape == (3, size)
    assert (masked == draw()).all()
    for length, row in zip(rows, masked, strict=True):
        assert not row[length:].any()
        assert all(run >= span for run in runs(row))  # spans lie inside whole, side by side or one over another
        places, spans = max(length - span + 1, 0), fraction * length / span
        low, high = (
            min(max(count, least), size // span, places) for count in (math.floor(spans - 1e-4), int(spans + 1 + 1e-4))
        )
        # They start at different places.
        assert (low + span - 1 if low else 0) <= row.sum() <= high * span


def runs(row: np.ndarray) -> list[int]:
    """Lengths of the stretches of true places."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


def test_another_key_masks_elsewhere():
    masks = [
        masked_spans(jax.random.key(seed), jnp.array([200, 200]), 200, fraction=0.3, span=10, least=0)
        for seed in (0, 1)
    ]
    assert (masks[0] != masks[1]).any()
    assert (masks[0][0] != masks[0][1]).any()  # rows differ too


@pytest.mark.parametrize(
    ("fraction", "span", "least"),
    [(0.05, 10, 2), (0.05, 10, 0), (0.3, 10, 0), (0.9, 10, 0), (0.07, 1, 0), (0.004, 1, 0), (0.2, 25, 3), (0.1, 50, 9)],
)
def test_draws_are_distributed_as_the_originals(fraction, span, least):
    """Masked fraction, stretches and how often each place is masked, in rows of several lengths."""
    size, lengths = 120, np.array([120, 119, 83, 50, 12, 10, 9, 1])
    inside = np.arange(size)[None] < lengths[:, None]
    ours = drawn(lengths, size, fraction, span, least)
    theirs = originals(inside, fraction, span, least)
    for measure in (
        lambda masks: masks.sum(axis=-1),
        lambda masks: masks.sum(axis=-1) ** 2,
        lambda masks: np.diff(masks.astype(int), axis=-1, prepend=0).clip(0).sum(axis=-1),  # stretches
        lambda masks: masks,
    ):
        assert_same_mean(measure(ours), measure(theirs))


@pytest.mark.parametrize("least", [0, 2])
def test_rows_round_together(least):
    """One draw rounds the number of spans of all rows; spans of one place show it."""
    lengths = np.array([100, 100, 50])
    inside = np.arange(100)[None] < lengths[:, None]
    for masks in (drawn(lengths, 100, 0.023, 1, least), originals(inside, 0.023, 1, least)):
        counts = masks.sum(axis=-1)
        assert (counts[:, 0] == counts[:, 1]).all()
        assert set(counts[:, 0]) == {2, 3}
        assert set(counts[:, 2]) == ({1, 2} if least == 0 else {2})
        assert (counts[:, 0] >= counts[:, 2]).all()


def test_a_span_longer_than_the_clip_masks_nothing():
    assert not masked_spans(jax.random.key(0), jnp.array([7]), 8, fraction=0.5, span=8, least=2).any()
    assert not masked_spans(jax.random.key(0), jnp.array([8]), 8, fraction=0.5, span=9, least=2).any()


def drawn(lengths: np.ndarray, size: int, fraction: float, span: int, least: int) -> np.ndarray:
    """(DRAWS, rows, size)"""

    def draw(key: jax.Array) -> jax.Array:
        return masked_spans(key, jnp.asarray(lengths), size, fraction=fraction, span=span, least=least)

    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(7), DRAWS)))


def originals(inside: np.ndarray, fraction: float, span: int, least: int) -> np.ndarray:
    """The same by transformers, which marks padding in a row without a span: that is zeroed later, and not counted."""
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _compute_mask_indices

    np.random.seed(7)
    mask = torch.tensor(inside.astype(np.int64))
    draws = [_compute_mask_indices(inside.shape, fraction, span, mask, least) for _ in range(DRAWS)]
    return np.stack(draws) & inside


def assert_same_mean(ours: np.ndarray, theirs: np.ndarray) -> None:
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / len(ours))
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= SIGMAS * error + 1e-9).all()
