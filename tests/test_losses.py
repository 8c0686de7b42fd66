"""Losses against closed forms, and at logits where a careless formula divides by zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.training.losses import class_weights, clip_losses

from .support.examples import examples


def batch(seed: int, clips: int = 6, count: int = 4, scale: float = 3.0):
    """(logits, labels, weights), random."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(scale * rng.standard_normal((clips, count)), jnp.float32)
    labels = jnp.asarray(rng.integers(count, size=clips), jnp.int32)
    return logits, labels, jnp.asarray(rng.uniform(0.2, 3, count), jnp.float32)


@pytest.mark.parametrize("focal", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_that_of_the_paper(focal: float) -> None:
    logits, labels, weights = batch(0)
    losses = clip_losses(logits, labels, weights=weights, label_smoothing=0.0, focal=focal)
    p = np.exp(np.asarray(logits, np.float64))
    p = (p / p.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    alpha = np.asarray(weights)[labels]
    np.testing.assert_allclose(losses, alpha * (1 - p) ** focal * -np.log(p), rtol=2e-6)


def test_smoothing_and_focal_together_modulate_each_term_by_its_own_label() -> None:
    logits, labels, weights = batch(1)
    losses = clip_losses(logits, labels, weights=weights, label_smoothing=0.2, focal=2.0)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(axis=1, keepdims=True)
    target = 0.8 * np.eye(4)[labels] + 0.2 / 4
    np.testing.assert_allclose(
        losses, (target * np.asarray(weights) * (1 - p) ** 2 * -np.log(p)).sum(axis=1), rtol=2e-6
    )


@settings(max_examples=examples(40))
@given(
    st.lists(st.sampled_from([0.0, 1.0, -1.0, 30.0, -200.0, 1e4, -1e4, 1e30, -1e30]), min_size=3, max_size=3),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.3, 1.0, 2.0]),
)
def test_gradients_are_finite_at_extreme_logits(
    values: list[float], label: int, smoothing: float, focal: float
) -> None:
    def loss(logits: jax.Array) -> jax.Array:
        losses = clip_losses(logits, jnp.array([label]), weights=jnp.ones(3), label_smoothing=smoothing, focal=focal)
        return losses.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.array([values], jnp.float32))
    assert np.isfinite(value)
    assert value >= 0
    assert np.isfinite(gradient).all()


@given(st.lists(st.integers(0, 500), min_size=2, max_size=9).filter(any))
def test_balanced_weights_give_each_label_the_same_share(counts: list[int]) -> None:
    clips = np.array(counts)
    weights = class_weights(clips)
    assert weights.dtype == np.float32
    present = clips > 0
    np.testing.assert_allclose((weights * clips)[present], clips.sum() / present.sum(), rtol=1e-6)
    np.testing.assert_array_equal(weights[~present], 1)


def test_balanced_weights_of_equal_counts_are_one() -> None:
    np.testing.assert_array_equal(class_weights(np.array([7, 7, 7])), np.ones(3, np.float32))
