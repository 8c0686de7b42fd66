"""Which clips each step learns from: a function of the corpus, the settings and the step's number alone.

So a step can be asked for without those before it, by every host and after every interruption. An epoch is a shuffled
pass over all clips, each once; or, balanced, as many draws in which all labels are equally frequent. Clips of about one
length share a step, as far as that leaves the order random: the clips of a few steps are sorted, sliced, and shuffled
again. Where length goes with the label, sorted steps are of few labels, so the fewer steps the better; padding grows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ..inference import FRAME_BUCKETS, TOKEN_BUCKETS, bucket


class TrainingBatch(NamedTuple):
    """The clips (their numbers) of a step, and what they are padded to.

    `real` of them are the step's own; those behind fill it up and count for nothing. `frames` and `tokens` are buckets,
    None where the mode has no use for them.
    """

    clips: Int[np.ndarray, " batch"]
    real: int
    frames: int | None
    tokens: int | None


class StepBatches:
    """The batches of all steps.

    `frames` and `tokens` are the most that each clip can have; `labels` their labels' numbers. The clips of `pool`
    steps are sorted by length together.
    """

    def __init__(
        self,
        *,
        labels: Int[np.ndarray, " clips"],
        frames: Int[np.ndarray, " clips"] | None,
        tokens: Int[np.ndarray, " clips"] | None,
        batch_size: int,
        epochs: int,
        pool: int,
        balanced: bool,
        seed: int,
    ):
        self._labels, self._frames, self._tokens = labels, frames, tokens
        self.batch_size = batch_size
        self.pool = pool
        self.balanced = balanced
        self.seed = seed
        self.per_epoch = -(-len(labels) // batch_size)
        self.epochs = epochs
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __getitem__(self, step: int) -> TrainingBatch:
        epoch, place = divmod(step, self.per_epoch)
        clips = self._epoch(epoch)[place]
        return pad_batch(clips, self.batch_size, self._frames, self._tokens)

    def _shuffled(self, epoch: int) -> list[Int[np.ndarray, " clips"]]:
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self._labels)
        if self.balanced:
            frequency = np.bincount(self._labels)
            chance = 1.0 / frequency[self._labels] / np.count_nonzero(frequency)
            order = rng.choice(count, count, p=chance / chance.sum())
        else:
            order = rng.permutation(count)
        batches = []
        for start in range(0, count, self.pool * self.batch_size):
            pool = order[start : start + self.pool * self.batch_size]
            if self._frames is not None and self.pool > 1:
                pool = pool[np.argsort(self._frames[pool], kind="stable")]
            batches += [pool[first : first + self.batch_size] for first in range(0, len(pool), self.batch_size)]
        return [batches[place] for place in rng.permutation(len(batches))]


def length_sorted_batches(
    frames: Int[np.ndarray, " clips"] | None, tokens: Int[np.ndarray, " clips"] | None, batch_size: int
) -> list[TrainingBatch]:
    """Every clip once, those of about one length together: for what is computed once, and for validation."""
    lengths = frames if frames is not None else tokens
    assert lengths is not None, "a mode hears or reads"
    order = np.argsort(lengths, kind="stable")
    return [
        pad_batch(order[start : start + batch_size], batch_size, frames, tokens)
        for start in range(0, len(order), batch_size)
    ]


def pad_batch(
    clips: Int[np.ndarray, " some"],
    batch_size: int,
    frames: Int[np.ndarray, " clips"] | None,
    tokens: Int[np.ndarray, " clips"] | None,
) -> TrainingBatch:
    """A batch of these clips, filled up with the first one."""
    return TrainingBatch(
        np.concatenate([clips, np.full(batch_size - len(clips), clips[0])]),
        len(clips),
        None if frames is None else bucket(int(frames[clips].max()), FRAME_BUCKETS),
        None if tokens is None else bucket(int(tokens[clips].max()), TOKEN_BUCKETS),
    )
