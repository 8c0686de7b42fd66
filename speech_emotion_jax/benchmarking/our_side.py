"""Our side of the benchmarks. It runs in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from flax import nnx

from ..audio import SAMPLE_RATE, load
from ..checkpoints import Request, load_checkpoint
from ..config import EmotionConfig, Wav2Vec2BertConfig
from ..corpus import Row, read_manifest, write_manifest
from ..evaluation import BatchPlan, ResultParts, Throughput, read_ahead, score_batches
from ..inference import FRAME_BUCKETS, EmotionPipeline, Scorer, bucket, default_batch_size, encoder_steps
from ..models import EmotionModel, parameters_of
from ..runtime.devices import select_mesh
from ..runtime.sharding import training_mesh
from ..runtime.storage import Folder
from ..training import OptimizerConfig, TrainingMethod, jit_step, make_optimizer
from ..whisper import TranscriptionOptions, WhisperPipeline
from .clips import random_features
from .machine import MATRIX_WIDTH, measure_matmul_rate
from .serving import Question, serve
from .steps import BATCHES, CLIP_NORM, CLIPS, LABELS, LEARNING_RATE, WEIGHT_DECAY, encoder_size, random_batches


class Encoder:
    """Run the audio encoder alone, on features padded to their bucket, as every prediction does."""

    def __init__(self, settings: Question):
        """Load the converted checkpoint."""
        checkpoint = load_checkpoint(Request(settings["converted"]), jax.devices()[0], settings["precision"])
        steps = encoder_steps(checkpoint.model, "audio", lambda _, states: states.last, jax.default_backend())
        programs = {step.name: jax.jit(step.function) for step in steps}  # all layers share one program
        self._steps = [(programs[step.name], step.parameters) for step in steps]

    def prepare(self, workload: Question) -> Callable[[], np.ndarray]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        frames = workload["frames"]
        length = bucket(frames, FRAME_BUCKETS)
        padded = jnp.asarray(np.pad(random_features(frames), ((0, 0), (0, length - frames), (0, 0))))
        mask = jnp.arange(length)[None] < frames

        def run() -> np.ndarray:
            x = padded
            for program, parameters in self._steps:
                x = program(parameters, x, mask)
            return np.asarray(x)[0, frames // 2]

        return run


class Prediction:
    """Predict probabilities from a file and a text, one clip at a time."""

    def __init__(self, settings: Question):
        """Load the converted checkpoint."""
        self._pipeline = EmotionPipeline.from_pretrained(
            settings["converted"], precision=settings["precision"], batch_size=1
        )

    def prepare(self, workload: Question) -> Callable[[], list[float]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        example = {"audio": workload["audio"], "text": workload["text"]}
        return lambda: list(self._pipeline.predict([example])[0]["scores"].values())


class Bulk:
    """Score clips as `evaluate` does, from files to saved parts."""

    def __init__(self, settings: Question):
        """Load the converted checkpoint."""
        self._mesh = select_mesh()
        checkpoint = load_checkpoint(Request(settings["converted"]), self._mesh.devices.flat[0], settings["precision"])
        self._scorer = Scorer(checkpoint, self._mesh)
        self._folder = tempfile.TemporaryDirectory()
        self._size = settings["batch"] or default_batch_size(self._scorer.config, jax.default_backend())

    def prepare(self, workload: Question) -> Callable[[], np.ndarray]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        files, texts = zip(*workload["clips"], strict=True)
        home = Path(tempfile.mkdtemp(dir=self._folder.name))
        path = home / "manifest.csv"
        write_manifest(pa.table({"filename": files, "transcription": texts}), str(path))

        def source(row: Row) -> str | None:
            return row.filename

        batches = BatchPlan(read_manifest(str(path)), self._size, source, has_audio=True)
        folder = Folder.open(home / "out")
        folder.make()
        parts = ResultParts(folder, self._scorer.config.labels)

        def run() -> np.ndarray:
            read = read_ahead(batches, range(len(batches)), self._scorer, source, ahead=4)
            scored = list(score_batches(read, self._scorer, self._size, lambda clips: None))
            parts.save(scored, Throughput())
            scores = {result.number: result.scores for each in scored for result in each.results}
            return np.array([scores[number] for number in sorted(scores)])

        return run


class Transcription:
    """Transcribe with Whisper from samples to text, greedily."""

    def __init__(self, settings: Question):
        """Load the recordings and the model that `settings` names."""
        self._clips = [load(path) for path in settings["recordings"]]
        self._pipeline = WhisperPipeline.from_pretrained(settings["folder"])
        self._options = TranscriptionOptions(
            language=settings["language"], batch_size=settings["batch"], no_speech=None
        )

    def prepare(self, workload: Question) -> Callable[[], list[str]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        sources = [{"array": self._clips[number], "sampling_rate": SAMPLE_RATE} for number in workload["clips"]]
        return lambda: [each["text"] for each in self._pipeline.transcribe(sources, self._options)]


class Training:
    """Run steps of training from random weights, with all parameters trainable.

    The state continues from turn to turn.
    """

    def __init__(self, settings: Question):
        """Initialise a model of the size that `settings` gives, and its optimizer."""
        width = settings["width"]
        audio = Wav2Vec2BertConfig(**encoder_size(settings["layers"], width))
        config = EmotionConfig.of("audio", tuple(map(str, range(LABELS))), audio, None, width)
        parameters = parameters_of(EmotionModel(config, rngs=nnx.Rngs(0)))
        optimizer = OptimizerConfig(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            clip_norm=CLIP_NORM,
            warmup=0.0,
            schedule="constant",
        )
        shapes = {path: array.shape for path, array in parameters.items()}
        method = TrainingMethod(config, make_optimizer(optimizer, shapes, 1), jnp.ones(LABELS), remat=settings["remat"])
        mesh = training_mesh()
        shardings = method.shardings(parameters, mesh)
        self._state = jax.jit(method.init_state, out_shardings=shardings)(parameters)
        self._program = jit_step(method, shardings, mesh)
        self._key = jax.random.key(0)
        self._batches = [_training_batch(*each) for each in random_batches()]
        self._steps_done = 0

    def prepare(self, workload: Question) -> Callable[[], list[float]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""

        def run() -> list[float]:
            losses = [self._step() for _ in range(workload["steps"])]
            return [float(losses[-1])]

        return run

    def _step(self) -> jax.Array:
        """Run one step. Returns before it is done, so that steps follow each other without a pause."""
        batch, key = self._batches[self._steps_done % BATCHES], jax.random.fold_in(self._key, self._steps_done)
        self._steps_done += 1
        self._state, measured = self._program(self._state, {}, batch, key)
        return measured.loss


def _training_batch(features: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> Mapping[str, jax.Array]:
    padding = bucket(mask.shape[1], FRAME_BUCKETS) - mask.shape[1]
    arrays = {
        "features": np.pad(features, ((0, 0), (0, padding), (0, 0))),
        "frame_mask": np.pad(mask, ((0, 0), (0, padding))),
        "labels": labels.astype(np.int32),
        "valid": np.ones(CLIPS, bool),
    }
    return {name: jnp.asarray(array)[None] for name, array in arrays.items()}


def rate(precision: str) -> float:
    """Return the FLOP/s of jnp.dot with float32 accumulation, for float32 or bfloat16 matrices."""
    matrix = jnp.ones((MATRIX_WIDTH, MATRIX_WIDTH), precision)
    highest: Any = jax.lax.Precision.HIGHEST if precision == "float32" else None
    dot = jax.jit(lambda a, b: jnp.dot(a, b, precision=highest, preferred_element_type=jnp.float32))
    return measure_matmul_rate(lambda: dot(matrix, matrix).block_until_ready())


if __name__ == "__main__":
    serve(
        {
            "encoder": Encoder,
            "prediction": Prediction,
            "bulk": Bulk,
            "transcription": Transcription,
            "training": Training,
        },
        rate,
    )
