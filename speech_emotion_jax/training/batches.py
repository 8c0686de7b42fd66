"""Choose the clips of each training step.

The choice depends only on the corpus, the settings and the number of the step. Every host can therefore compute the
batch of any step, also after an interruption, without computing those before it.

An epoch is a shuffled pass over all clips. If it is balanced, it consists of as many draws in which all labels are
equally frequent. The clips of a few consecutive steps (the pool) are sorted by length and sliced into batches, which
are shuffled again. A larger pool needs less padding, but if length depends on the label, its batches have few labels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ..inference import FRAME_BUCKETS, TOKEN_BUCKETS, bucket


class TrainingBatch(NamedTuple):
    """The clips of a step and the lengths they are padded to.

    Attributes:
        clips: The numbers of the clips. Those after the first `real` fill up the batch and do not count.
        real: The number of clips that count.
        frames: The frame bucket; None if the mode takes no audio.
        tokens: The token bucket; None if the mode takes no text.
    """

    clips: Int[np.ndarray, " batch"]
    real: int
    frames: int | None
    tokens: int | None


class StepBatches:
    """The batches of all steps of a training run, as a sequence."""

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
        """Create the sequence.

        Args:
            labels: The number of each clip's label.
            frames: The largest number of frames that each clip can have; None if the mode takes no audio.
            tokens: The number of tokens of each clip; None if the mode takes no text.
            batch_size: Clips per step.
            epochs: The number of epochs.
            pool: The number of steps whose clips are sorted by length together.
            balanced: Whether labels are drawn equally often.
            seed: The seed of the order.
        """
        self._labels, self._frames, self._tokens = labels, frames, tokens
        self.batch_size = batch_size
        self.pool = pool
        self.balanced = balanced
        self.seed = seed
        self.per_epoch = -(-len(labels) // batch_size)
        self.epochs = epochs
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.epochs * self.per_epoch

    def __getitem__(self, step: int) -> TrainingBatch:
        """Return the batch of a step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        clips = self._epoch(epoch)[place]
        return pad_batch(clips, self.batch_size, self._frames, self._tokens)

    def _shuffled(self, epoch: int) -> list[Int[np.ndarray, " clips"]]:
        """Return the clips of each batch of an epoch."""
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
    """Return batches of all clips, each clip once, sorted by length. They serve validation and precomputation."""
    lengths = frames if frames is not None else tokens
    assert lengths is not None, "every mode takes audio or text"
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
    """Return a batch of these clips, filled up with copies of the first one."""
    return TrainingBatch(
        np.concatenate([clips, np.full(batch_size - len(clips), clips[0])]),
        len(clips),
        None if frames is None else bucket(int(frames[clips].max()), FRAME_BUCKETS),
        None if tokens is None else bucket(int(tokens[clips].max()), TOKEN_BUCKETS),
    )
