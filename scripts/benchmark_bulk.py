"""Measure the overhead of a bulk run over the model alone, and how fast threads and processes read recordings.

    python scripts/benchmark_bulk.py MANIFEST AUDIO_ROOT [--layers 6] [--rounds 3]

The audio model has the published width of 1024 and RANDOM weights, which are as costly as real ones. Two sides take
turns, both warm: the bulk run from files to saved parts, and the compiled encoder and head alone on the features of the
same batches, which are already in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import grain
import jax
import numpy as np
from absl import flags
from flax import nnx

from speech_emotion_jax.audio.fbank import Clip, read_clip
from speech_emotion_jax.audio.waveform import SAMPLE_RATE
from speech_emotion_jax.checkpoints import Checkpoint
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.corpus.manifest import Row, locate
from speech_emotion_jax.corpus.manifest_files import read_manifest
from speech_emotion_jax.evaluation.batches import BatchPlan
from speech_emotion_jax.evaluation.mesh import ScoredBatch, score_batches
from speech_emotion_jax.evaluation.parts import ResultParts, Throughput
from speech_emotion_jax.evaluation.reading import ClipBatch, read_ahead
from speech_emotion_jax.inference.scorer import Scorer
from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.runtime.devices import select_mesh
from speech_emotion_jax.runtime.storage import Folder


def random_scorer(layers: int, folder: Path) -> Scorer:
    """Make a scorer for an audio model with random weights."""
    config = EmotionConfig.published("es", "audio")
    assert config.audio is not None
    config = replace(config, audio=replace(config.audio, num_hidden_layers=layers))
    (folder / "preprocessor_config.json").write_text('{"padding_value": 1}')
    model = EmotionModel(config, rngs=nnx.Rngs(0))
    return Scorer(Checkpoint(model, config, "es", folder, folder), select_mesh("cpu"))


class Model:
    """The compiled encoder and head, on the features of batches that have been read."""

    def __init__(self, scorer: Scorer, reads: list[ClipBatch], batch_size: int):
        """Score the batches once, and keep their features."""
        self.scorer = scorer
        self.inputs: list[tuple[jax.Array, jax.Array]] = []
        run = scorer._run

        def keep(name: str, function: Callable[..., object], *inputs: object, **named: object) -> object:
            result = run(name, function, *inputs, **named)
            if name == "the features":
                self.inputs.append(result)
            return result

        scorer._run = keep  # records the features of every batch that the run assembles
        for _ in score_batches(reads, scorer, batch_size, lambda clips: None):
            pass
        scorer._run = run

    def __call__(self) -> None:
        """Run the model on all batches."""
        for x, mask in self.inputs:
            vectors = self.scorer.encode_audio(x, mask)
            np.asarray(self.scorer.probabilities(vectors, None))


def seconds(side: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def reading_rates(paths: list[str], audio: float) -> None:
    """Print how many seconds of sound are decoded and resampled per second, in batches of eight."""
    chunks = [paths[start : start + 8] for start in range(0, len(paths), 8)]
    sources = grain.MapDataset.source(chunks).map(_read_chunk)
    for threads in (1, 2, 4):
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
        taken = seconds(lambda options=options: list(sources.to_iter_dataset(options)))
        print(f"reading, {threads} thread{'s' * (threads > 1)}: {audio / taken:,.0f} s of sound a second")
    flags.FLAGS(["benchmark"])  # Grain's processes need absl's flags to be parsed
    for workers in (1, 2):
        processes = grain.MultiprocessingOptions(num_workers=workers)
        dataset = sources.to_iter_dataset().mp_prefetch(processes)
        taken = seconds(lambda dataset=dataset: list(dataset))
        print(
            f"reading, {workers} process{'es' * (workers > 1)}: {audio / taken:,.0f} s of sound a second, "
            f"their start of {taken:.1f} s included"
        )


def _read_chunk(paths: list[str]) -> list[Clip]:
    return [read_clip(path) for path in paths]


def main() -> None:
    """Print the rates of reading, and the speed of the bulk run relative to the model alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("audio_root")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()

    def source(row: Row) -> str:
        assert row.filename is not None
        return locate(row.filename, options.audio_root)

    manifest = read_manifest(options.manifest)
    with tempfile.TemporaryDirectory() as temporary:
        scorer = random_scorer(options.layers, Path(temporary))
        folder = Folder.open(Path(temporary, "out"))
        folder.make()
        parts = ResultParts(folder, scorer.config.labels)
        batches = BatchPlan(manifest, options.batch_size, source, has_audio=True)
        ahead = partial(read_ahead, batches, range(len(batches)), scorer, source, ahead=4)
        reads = list(ahead())
        clips = [each.clip for read in reads for each in read.clips if each.clip is not None]
        audio = sum(clip.samples for clip in clips) / SAMPLE_RATE
        print(f"{len(clips)} recordings, {audio:,.0f} s; {options.layers} layers, batches of {options.batch_size}")
        reading_rates([source(row) for batch in batches for row in batch], audio)

        def bulk() -> None:
            pending: list[ScoredBatch] = []
            for scored in score_batches(ahead(), scorer, options.batch_size, lambda clips: None):
                pending.append(scored)
                if len(pending) == 16:
                    parts.save(pending, Throughput())
                    pending = []
            if pending:
                parts.save(pending, Throughput())

        started = time.perf_counter()
        model = Model(scorer, reads, options.batch_size)
        cold = time.perf_counter() - started
        del reads, clips
        print(f"first use: {audio / cold:.2f} s of sound a second, {scorer.compile_seconds:.1f} s of it compiling")
        ratios = []
        for number in range(options.rounds):
            ours, alone = seconds(bulk), seconds(model)
            ratios.append(alone / ours)
            print(
                f"round {number + 1}: bulk run {audio / ours:.2f}, model alone {audio / alone:.2f} s of sound a "
                f"second; ratio {ratios[-1]:.3f}",
                flush=True,
            )
        print(f"bulk run at {statistics.median(ratios):.3f} of the model's own throughput (median)")


if __name__ == "__main__":
    main()
