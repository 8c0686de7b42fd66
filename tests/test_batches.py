import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.inputs.batches import (
    FRAME_BUCKETS,
    TOKEN_BUCKETS,
    Batch,
    bucket,
    pad_tokens,
    padding_waste,
    plan_batches,
)
from speech_emotion_jax.inputs.features import MAX_SAMPLES, feature_frames

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
    ids, mask = pad_tokens([[5, 6, 7], [8]], Batch((1, 0), 4, 4), pad_token=9)
    assert ids.tolist() == [[8, 9, 9, 9], [5, 6, 7, 9], [9] * 4, [9] * 4]
    assert mask.sum(axis=1).tolist() == [1, 3, 1, 1]
    assert np.asarray(ids).dtype == np.int32


@pytest.mark.skipif("MEACORPUS" not in os.environ, reason="set MEACORPUS to the folder of the corpus's CSV files")
def test_padding_waste_on_meacorpus(capsys):
    """Its lengths are not distributed with this project: CC BY-NC."""
    with (Path(os.environ["MEACORPUS"]) / "dataset-with-video-keys.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = [(float(row["end_time"]) - float(row["start_time"])) / 1000 for row in rows]
    waste = padding_waste([feature_frames(int(each * 16_000)) for each in seconds], FRAME_BUCKETS)
    tokens = padding_waste([min(512, 2 + len(row["transcription"].split()) * 4 // 3) for row in rows], TOKEN_BUCKETS)
    with capsys.disabled():
        print(f"\npadding waste on {len(rows)} MEACorpus clips: {waste:.1%} of frames; of tokens about {tokens:.0%}")
    assert waste <= 0.10
