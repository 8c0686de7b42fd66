"""Which clips a step learns from."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.inference.batching import FRAME_BUCKETS
from speech_emotion_jax.training.batches import StepBatches, length_sorted_batches

from .support.examples import examples


def clips(count: int) -> dict[str, np.ndarray]:
    """Return random labels, frames and tokens of that many clips."""
    rng = np.random.default_rng(count)
    return {
        "labels": rng.integers(0, 3, count),
        "frames": rng.integers(1, 700, count),
        "tokens": rng.integers(2, 60, count),
    }


def steps(
    count: int, batch_size: int, *, pool: int = 4, balanced: bool = False, seed: int = 0, epochs: int = 3
) -> StepBatches:
    return StepBatches(
        **clips(count),
        batch_size=batch_size,
        epochs=epochs,
        pool=pool,
        balanced=balanced,
        seed=seed,
    )


@given(count=st.integers(1, 400), batch_size=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=examples(60))
def test_an_epoch_has_every_clip_once(count: int, batch_size: int, seed: int):
    plan = steps(count, batch_size, seed=seed)
    assert len(plan) == 3 * plan.per_epoch
    for epoch in range(3):
        batches = [plan[epoch * plan.per_epoch + place] for place in range(plan.per_epoch)]
        seen = Counter(clip for batch in batches for clip in batch.clips[: batch.real].tolist())
        assert seen == dict.fromkeys(range(count), 1)
        for batch in batches:
            assert len(batch.clips) == batch_size
            assert set(batch.clips.tolist()) == set(batch.clips[: batch.real].tolist())
            assert batch.frames in FRAME_BUCKETS
            assert batch.frames is not None
            assert batch.frames >= clips(count)["frames"][batch.clips].max()


def test_a_step_is_the_same_without_those_before_it():
    ahead, back = steps(100, 8, seed=4), steps(100, 8, seed=4)
    forward = [ahead[number] for number in range(len(ahead))]
    for number in reversed(range(len(back))):
        np.testing.assert_array_equal(back[number].clips, forward[number].clips)
    other = steps(100, 8, seed=5)
    assert any((other[number].clips != forward[number].clips).any() for number in range(5))
    epochs = [[tuple(forward[epoch * 13 + place].clips) for place in range(13)] for epoch in range(2)]
    assert epochs[0] != epochs[1]


def test_clips_of_a_length_share_a_step():
    padded = {}
    for pool in (1, 4, 16):
        plan = steps(16 * 16, 16, pool=pool)
        padded[pool] = sum(16 * (plan[number].frames or 0) for number in range(plan.per_epoch))
    assert padded[16] < 0.9 * padded[4] < 0.9 * 0.9 * padded[1]


def test_balanced_draws_have_all_labels_equally_often():
    rng = np.random.default_rng(0)
    labels = rng.permutation([0] * 900 + [1] * 90 + [3] * 10)  # label 2 does not occur
    plan = StepBatches(
        labels=labels,
        frames=None,
        tokens=None,
        batch_size=50,
        epochs=20,
        pool=4,
        balanced=True,
        seed=0,
    )
    drawn = np.concatenate([plan[number].clips for number in range(len(plan))])
    shares = np.bincount(labels[drawn], minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.015)


def test_in_order_every_clip_comes_once():
    frames = np.array([100, 3, 500, 40, 41])
    batches = length_sorted_batches(frames, None, 2)
    assert [batch.clips[: batch.real].tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
    assert [batch.frames for batch in batches] == [64, 128, 512]
