"""The clips of a training run as model inputs, read ahead of the devices and placed on them.

What no step changes is computed once before the first step: features of clips that never change, and vectors of frozen
encoders. Everything else is read again for each step, in Grain's threads. All random values depend only on the seed,
the step and the position of the clip, so a resumed run repeats the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from ..audio import (
    FEATURE_DIM,
    MAX_SAMPLES,
    SAMPLE_RATE,
    AudioSource,
    feature_frames,
    features,
    read_clip,
    samples_for,
    stated_seconds,
)
from ..errors import SpeechEmotionError
from ..evaluation import READER_THREADS
from ..inference import pad_tokens
from ..runtime.progress import progress
from ..runtime.sharding import BATCH
from .augment import augment_waveform, random_crop
from .batches import TrainingBatch, length_sorted_batches
from .recipe import AugmentConfig

logger = logging.getLogger("speech_emotion_jax")

MOST_KEPT = 4 << 30  # bytes; larger corpora are read again each epoch
UNREADABLE = np.zeros(SAMPLE_RATE, np.float32)  # replaces a clip that can't be read; it is masked out

Arrays = dict[str, Any]  # of numpy or on the devices; the names are those of the model's inputs


@dataclass
class TrainingClips:
    """Clips with their labels.

    Attributes:
        labels: The number of each clip's label.
        sources: The recordings; None if the mode takes no audio.
        ids: The tokens of the texts; None if the mode takes no text.
        pad_token: The token that texts are padded with.
        padding_value: The value that features are padded with.
        max_seconds: The largest length of audio that a step uses.
        augment: The augmentation of the waveforms.
        samples: The lengths that the files' headers state.
        vectors: Precomputed "audio" and "text" vectors.
        kept: Precomputed features; None for clips that can't be read.
        unreadable: The numbers of the clips that can't be read.
    """

    labels: Int[np.ndarray, " clips"]
    sources: Sequence[AudioSource] | None
    ids: Sequence[Sequence[int]] | None
    pad_token: int
    max_seconds: float
    augment: AugmentConfig
    samples: Int[np.ndarray, " clips"] | None = None  # as the headers state them
    vectors: dict[str, Float[np.ndarray, "clips width"]] = field(default_factory=dict)
    kept: list[Float[np.ndarray, "frames 160"] | None] | None = None
    unreadable: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Read the lengths of the recordings."""
        if self.sources is not None:
            self.samples = np.array([_stated_samples(source) for source in self.sources])

    @property
    def limit(self) -> int:
        """The largest number of samples that the model is given."""
        return min(round(self.max_seconds * SAMPLE_RATE), MAX_SAMPLES)

    @property
    def fixed(self) -> bool:
        """Whether clips are the same at every step."""
        return self.samples is not None and not (
            self.augment.speed or self.augment.noise or (self.samples > self.limit).any()
        )

    def frames(self) -> Int[np.ndarray, " clips"] | None:
        """Return the largest number of frames of each clip, at the slowest speed."""
        if self.samples is None:
            return None
        longest = np.minimum(self.samples / (1 - self.augment.speed), self.limit)
        return np.array([max(1, feature_frames(int(np.ceil(each)))) for each in longest])

    def tokens(self) -> Int[np.ndarray, " clips"] | None:
        """Return the number of tokens of each clip."""
        return None if self.ids is None else np.array([len(each) for each in self.ids])

    def seconds(self, batch: TrainingBatch) -> float:
        """Return the length of audio in a batch."""
        if self.samples is None:
            return 0.0
        return float(np.minimum(self.samples[batch.clips[: batch.real]], self.limit).sum() / SAMPLE_RATE)

    def waveform(self, clip: int, rng: np.random.Generator | None) -> Float[np.ndarray, " samples"] | None:
        """Return the waveform of a clip: augmented with `rng`, as recorded without. None if it can't be read."""
        assert self.sources is not None
        if clip in self.unreadable:
            return None
        try:
            waveform = read_clip(self.sources[clip]).waveform
        except SpeechEmotionError as error:
            self.unreadable.add(clip)
            logger.warning("left out: %s", error)
            return None
        if rng is None:
            return waveform[: self.limit]
        return random_crop(augment_waveform(waveform, self.augment, rng), self.limit / SAMPLE_RATE, rng)


def _stated_samples(source: AudioSource) -> int:
    """Return the length that the header states, or the largest possible one if it states none."""
    seconds = stated_seconds(source)
    return MAX_SAMPLES if seconds is None else round(seconds * SAMPLE_RATE)


class DeviceFeed:
    """Reads batches and places them on the devices of a mesh as arrays of shape (parts, clips per part, ...)."""

    def __init__(self, clips: TrainingClips, mesh: Mesh, accumulation: int = 1):
        """Prepare to feed the clips in `accumulation` parts per batch."""
        self.clips = clips
        self.mesh = mesh
        self.accumulation = accumulation
        self.sharding = NamedSharding(mesh, PartitionSpec(None, BATCH))
        self._features = jax.jit(jax.vmap(features))

    def read(self, batch: TrainingBatch, draws: Sequence[int] | None) -> Arrays:
        """Read what this host's devices need of a batch. `draws` seeds the augmentation; None turns it off."""
        shape = (self.accumulation, len(batch.clips) // self.accumulation)
        columns = self._columns(shape)
        places = np.arange(len(batch.clips)).reshape(shape)[:, columns]
        clips, valid = batch.clips[places], places < batch.real
        arrays: Arrays = {}
        if batch.frames is not None:
            valid &= self._heard(batch, clips, places, draws, arrays)
        if batch.tokens is not None:
            self._worded(batch, clips, arrays)
        arrays["labels"] = self.clips.labels[clips].astype(np.int32)
        arrays["valid"] = valid
        return arrays

    def put(self, arrays: Arrays) -> Arrays:
        """Place arrays on the devices, and compute features from waveforms."""
        placed = {
            name: jax.make_array_from_process_local_data(
                self.sharding, array, (self.accumulation, array.shape[1] * jax.process_count(), *array.shape[2:])
            )
            for name, array in arrays.items()
        }
        if "waveforms" in placed:
            heard = self._features(placed.pop("waveforms"), placed.pop("lengths"))
            placed["features"], placed["frame_mask"] = heard
        return placed

    def ahead(self, batches: Any, random: Callable[[int], Sequence[int] | None], depth: int = 4) -> Any:
        """Return a Grain iterator over the arrays of all batches, read ahead by threads. Its state is a position."""
        options = grain.ReadOptions(num_threads=min(READER_THREADS, depth), prefetch_buffer_size=depth)
        numbers = grain.MapDataset.range(len(batches))
        return iter(
            numbers.map(lambda number: self.read(batches[int(number)], random(int(number)))).to_iter_dataset(options)
        )

    def _columns(self, shape: tuple[int, int]) -> Int[np.ndarray, " columns"]:
        """Return which clips of each part this host's devices hold."""
        held = self.sharding.addressable_devices_indices_map(shape).values()
        return np.unique(np.concatenate([np.arange(shape[1])[index[1]] for index in held if index is not None]))

    def _heard(
        self, batch: TrainingBatch, clips: np.ndarray, places: np.ndarray, draws: Sequence[int] | None, arrays: Arrays
    ) -> np.ndarray:
        """Add the precomputed audio or the waveforms; return which clips could be read."""
        assert batch.frames is not None
        given = self.clips
        readable = np.ones(clips.shape, bool)
        if "audio" in given.vectors:
            vectors = given.vectors["audio"][clips]
            readable = np.asarray(~np.isnan(vectors).any(axis=-1))
            arrays["audio"] = np.nan_to_num(vectors)
        elif given.kept is not None:
            arrays["features"] = np.zeros((*clips.shape, batch.frames, FEATURE_DIM), np.float32)
            arrays["frame_mask"] = np.zeros((*clips.shape, batch.frames), bool)
            for place in np.ndindex(clips.shape):
                found = given.kept[clips[place]]
                readable[place] = found is not None
                if found is not None:
                    arrays["features"][place][: len(found)] = found
                arrays["frame_mask"][place][: 1 if found is None else len(found)] = True
        else:
            arrays["waveforms"] = np.zeros((*clips.shape, samples_for(batch.frames)), np.float32)
            arrays["lengths"] = np.zeros(clips.shape, np.int32)
            for place in np.ndindex(clips.shape):
                rng = None if draws is None else np.random.default_rng([*draws, int(places[place])])
                found = given.waveform(int(clips[place]), rng)
                readable[place] = found is not None
                waveform = (UNREADABLE if found is None else found)[: arrays["waveforms"].shape[-1]]
                arrays["waveforms"][place][: len(waveform)] = waveform
                arrays["lengths"][place] = len(waveform)
        return readable

    def _worded(self, batch: TrainingBatch, clips: np.ndarray, arrays: Arrays) -> None:
        """Add the precomputed text vectors or the tokens."""
        assert batch.tokens is not None
        given = self.clips
        if "text" in given.vectors:
            arrays["text"] = given.vectors["text"][clips]
            return
        assert given.ids is not None
        ids, mask = pad_tokens([given.ids[clip] for clip in clips.reshape(-1)], batch.tokens, given.pad_token)
        arrays["ids"] = ids.reshape(*clips.shape, -1)
        arrays["token_mask"] = mask.reshape(*clips.shape, -1)


def cache_features(clips: TrainingClips, mesh: Mesh, batch_size: int) -> None:
    """Precompute the features of all clips if `TrainingClips.fixed` holds and they fit into MOST_KEPT bytes.

    With several hosts nothing is precomputed, because each host reads only its part of each step.
    """
    frames = clips.frames()
    if frames is None or not clips.fixed or jax.process_count() > 1 or frames.sum() * FEATURE_DIM * 4 > MOST_KEPT:
        return
    feed = DeviceFeed(clips, mesh)
    batches = length_sorted_batches(frames, None, batch_size)
    kept: list[np.ndarray | None] = [None] * len(frames)
    with progress("Computing features", len(frames)) as advance:
        for batch, arrays in zip(batches, feed.ahead(batches, lambda number: None), strict=True):
            heard = feed.put(arrays)
            values, masks, valid = (np.asarray(heard[name])[0] for name in ("features", "frame_mask", "valid"))
            for place in np.flatnonzero(valid[: batch.real]):
                # Copied, so that the batch's padding is not kept; an odd last frame, which is masked, is left out.
                kept[batch.clips[place]] = values[place, : masks[place].sum()].copy()
            advance(batch.real)
    clips.kept = kept


def cache_vectors(
    clips: TrainingClips, name: str, encode: Callable[[Arrays], jax.Array], mesh: Mesh, batch_size: int
) -> None:
    """Precompute the "audio" or "text" vectors of a frozen encoder.

    Args:
        clips: The clips.
        name: "audio" or "text".
        encode: Maps the arrays of a batch to vectors (1, clips, width), NaN for clips that can't be read.
        mesh: The devices.
        batch_size: Clips per batch.
    """
    heard = name == "audio"
    batches = length_sorted_batches(clips.frames() if heard else None, None if heard else clips.tokens(), batch_size)
    feed = DeviceFeed(clips, mesh)
    found: np.ndarray | None = None
    with progress(f"Computing {name} vectors", len(clips.labels)) as advance:
        for batch, arrays in zip(batches, feed.ahead(batches, lambda number: None), strict=True):
            vectors = np.asarray(encode(feed.put(arrays)))[0]
            if found is None:
                found = np.zeros((len(clips.labels), vectors.shape[1]), np.float32)
            found[batch.clips[: batch.real]] = vectors[: batch.real]
            advance(batch.real)
    assert found is not None
    clips.vectors[name] = found
