"""Batch shapes: few lengths and few batch sizes, so that few programs are compiled whatever the corpus.

Lengths are padded to the next bucket, and batches to a power of two. Padding is masked and changes no result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int

# In frames of 20 ms. Clips of the field's corpora last 1 to 16 s, where buckets are 1.28 s apart. They are wider up to
# 160 s.
FRAME_BUCKETS = (32, *range(64, 769, 64), 1024, 1536, 2048, 3072, 4096, 6144, 8000)
TOKEN_BUCKETS = (16, 32, 64, 128, 256, 512)

Item = TypeVar("Item")


class BucketBatch(NamedTuple):
    """A batch.

    Attributes:
        items: The indices of its items.
        size: Number of rows to which the batch is padded.
        length: Length to which each item is padded, a bucket.
    """

    items: tuple[int, ...]
    size: int
    length: int


def bucket(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds `length`."""
    return buckets[bisect_left(buckets, length)]


def padded_size(count: int, batch_size: int) -> int:
    """Return the number of rows to which a batch of `count` items is padded.

    It is the next power of two, but at most `batch_size`.
    """
    return min(batch_size, 1 << (count - 1).bit_length())


def padded_sizes(batch_size: int) -> list[int]:
    """Return all values of `padded_size` for batches of 1 to `batch_size` items."""
    return sorted({padded_size(count, batch_size) for count in range(1, batch_size + 1)})


def plan_batches(lengths: Sequence[int], buckets: Sequence[int], batch_size: int) -> list[BucketBatch]:
    """Group items of the same bucket into batches of at most `batch_size`. Every item is in exactly one batch."""
    groups: dict[int, list[int]] = defaultdict(list)
    for item, length in enumerate(lengths):
        groups[bucket(length, buckets)].append(item)
    batches = []
    for length in sorted(groups):
        items = groups[length]
        for start in range(0, len(items), batch_size):
            chunk = tuple(items[start : start + batch_size])
            batches.append(BucketBatch(chunk, padded_size(len(chunk), batch_size), length))
    return batches


def padding_waste(lengths: Iterable[int], buckets: Sequence[int]) -> float:
    """Return the fraction of padding that bucketing adds to the real frames; 0.07 is 7 %."""
    lengths = list(lengths)
    return sum(bucket(length, buckets) for length in lengths) / sum(lengths) - 1


def pad_tokens(
    ids: Sequence[Sequence[int]], length: int, pad_token: int
) -> tuple[Int[np.ndarray, "batch tokens"], Bool[np.ndarray, "batch tokens"]]:
    """Pad the token ids of texts to `length`; return them with a mask that is true at real tokens."""
    padded = np.full((len(ids), length), pad_token, np.int32)
    mask = np.zeros((len(ids), length), bool)
    for row, each in enumerate(ids):
        padded[row, : len(each)] = each
        mask[row, : len(each)] = True
    return padded, mask


def repeat_first(items: list[Item], size: int) -> list[Item]:
    """Pad a list to `size` by its first item. A real item needs no special case in the model."""
    return [*items, *items[:1] * (size - len(items))]
