import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.audio.fbank import MAX_SAMPLES, feature_frames
from speech_emotion_jax.inference.batching import (
    FRAME_BUCKETS,
    bucket,
    pad_tokens,
    padding_waste,
    plan_batches,
    repeat_first,
)

lengths = st.lists(st.integers(1, FRAME_BUCKETS[-1]), max_size=60)


def test_buckets_cover_every_length():
    assert FRAME_BUCKETS[-1] == feature_frames(MAX_SAMPLES)
    assert list(FRAME_BUCKETS) == sorted(set(FRAME_BUCKETS))


@given(lengths, st.integers(1, 9))
def test_every_item_is_in_exactly_one_batch(lengths, batch_size):
    batches = plan_batches(lengths, FRAME_BUCKETS, batch_size)
    assert sorted(item for batch in batches for item in batch.items) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch.items) <= batch.size <= batch_size
        assert all(bucket(lengths[item], FRAME_BUCKETS) == batch.length for item in batch.items)


@given(lengths, st.integers(1, 9))
def test_shapes_are_few(lengths, batch_size):
    shapes = {(batch.size, batch.length) for batch in plan_batches(lengths, FRAME_BUCKETS, batch_size)}
    assert len({size for size, _ in shapes}) <= 1 + (batch_size - 1).bit_length()


def test_padded_tokens():
    ids, mask = pad_tokens([[8], [5, 6, 7]], 4, pad_token=9)
    assert ids.tolist() == [[8, 9, 9, 9], [5, 6, 7, 9]]
    assert mask.sum(axis=1).tolist() == [1, 3]
    assert np.asarray(ids).dtype == np.int32


def test_a_batch_is_filled_with_its_first_item():
    assert repeat_first(["a", "b"], 4) == ["a", "b", "a", "a"]
    assert repeat_first(["a"], 1) == ["a"]


def test_padding_waste_on_clips_of_the_field():
    """Lengths of 2.5 to 15 s, as in MEACorpus."""
    seconds = np.random.default_rng(0).triangular(2.5, 11, 15, 5_000)
    assert padding_waste([feature_frames(int(each * 16_000)) for each in seconds], FRAME_BUCKETS) <= 0.10
