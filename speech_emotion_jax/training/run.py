"""Train a model by a recipe on a manifest, publish it, and score it.

Files in the output folder:

- training.json: the recipe and the data. A run with others does not continue this one.
- manifest.parquet: the manifest with each clip's role: train, valid or test.
- tokenizer/: the tokenizer of a text model from scratch.
- states/: the last states and the best one, from which a run resumes.
- history.parquet, curves.png, tensorboard/: the learning curve.
- best-published/: the best state in the published layout, for PyTorch.
- best/: the same as a converted folder.
- evaluation/: its scores, as `evaluate` writes them.
- metrics.json: these metrics. It is written last.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from ..checkpoints import Request
from ..config import EmotionConfig
from ..convert import TEXT_ENCODER, publish, publish_and_convert
from ..corpus import Manifest, fetch_recordings, read_manifest, validate
from ..errors import InvalidInput
from ..evaluation import METRICS, EvaluateConfig, EvaluateResult, claim_folder, evaluate, recording_source
from ..models import parameter_shapes
from ..registry import FUSION_MODES
from ..runtime.compat import multihost_utils
from ..runtime.progress import progress
from ..runtime.sharding import on_mesh, parameter_shardings, place, training_mesh
from ..runtime.storage import Folder
from ..runtime.versions import versions
from ..text import TextTokenizer
from .batches import StepBatches
from .clips import DeviceFeed, TrainingClips, cache_features, cache_vectors
from .corpus import TEST, TRAIN, VALID, Corpus, assign_roles, choose_labels
from .fit import TrainingLoop, Validator
from .history import History
from .losses import class_weights
from .optimizer import frozen_layers, make_optimizer, schedule, trainable_paths
from .recipe import AugmentConfig, Recipe
from .saving import StateStore
from .start import InitialModel, checkpoint_labels, make_initial_model, source_digests
from .step import Parameters, TrainingMethod, TrainState

RECORD, MANIFEST, STATES, EVALUATION = "training.json", "manifest.parquet", "states", "evaluation"
BEST, PUBLISHED, TOKENIZER = "best", "best-published", "tokenizer"


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. For `columns`, `label_map` and `time_unit` see `read_manifest`."""

    recipe: Recipe
    manifest: str
    output: str
    audio_root: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    time_unit: str = "s"

    @property
    def root(self) -> str:
        """The folder that file names are relative to."""
        return EvaluateConfig(self.manifest, self.output, Request(""), self.audio_root).root


def train(job: TrainConfig, corpus: Corpus | None = None) -> EvaluateResult:
    """Train a model, or continue a run, and score the best state on the test clips, or else on the validation clips.

    Args:
        job: The settings.
        corpus: The roles of the clips. None: the recipe assigns them.

    Raises:
        InvalidInput: The manifest, recipe or checkpoint can't be used, or the output folder holds another run.
        UnreadableInput: A file can't be read.
        Interrupted: A signal asked for the end.
    """
    recipe = job.recipe
    folder = Folder.open(job.output)
    if not folder.on_disk:
        raise InvalidInput(f"{job.output} is on a bucket; train onto a disk, which all hosts share, and copy it there")
    if corpus is None:
        with progress("Reading the manifest"):
            manifest = read_manifest(
                job.manifest, columns=job.columns, label_map=job.label_map, time_unit=job.time_unit
            )
        corpus = assign_roles(manifest, recipe.data, recipe.training.seed)
    labels = choose_labels(corpus, recipe.data, checkpoint_labels(recipe), keep_head=recipe.start.head == "kept")
    local = local_recordings(job, corpus.manifest)
    _check(corpus, local, labels)
    mesh = training_mesh(recipe.training.fsdp)
    _check_batch(recipe, mesh)
    with progress("Taking checksums of what it starts from"):
        record = _record(job, corpus, labels, source_digests(recipe))
    if jax.process_index() == 0:
        claim_folder(folder, RECORD, record)
        if not folder.holds(MANIFEST):
            with folder.writing(MANIFEST) as file:
                pq.write_table(corpus.table(), file)
    _together("claimed")
    if not folder.holds(BEST):
        with progress("Making the model"):
            beginning = make_initial_model(recipe, labels, lambda: _texts(corpus), Path(job.output, TOKENIZER))
        _learn(local, corpus, beginning, mesh, folder)
    outcome = _evaluated(local, corpus)
    if jax.process_index() == 0 and not folder.holds(METRICS):
        folder.write(METRICS, Folder.open(str(Path(job.output, EVALUATION))).read(METRICS))
    return replace(outcome, text=f"{_of_which(corpus)}\n\n{outcome.text}") if outcome.finished else outcome


def local_recordings(job: TrainConfig, manifest: Manifest) -> TrainConfig:
    """Return the settings with the folder of the recordings on the disk, to which those at an address are copied."""
    return job if job.recipe.model.mode == "text" else replace(job, audio_root=fetch_recordings(manifest, job.root))


def _of_which(corpus: Corpus) -> str:
    if corpus.rows(TEST):
        return "The best state on the test clips:"
    return "The best state on the validation clips, which chose it: expect less of others. There are no test clips."


def _check(corpus: Corpus, job: TrainConfig, labels: Sequence[str]) -> None:
    """Check that every clip with a role can be used."""
    mode = job.recipe.model.mode
    with progress("Checking the manifest"):
        validate(
            corpus.used(), audio_root=job.root, needs_audio=mode != "text", needs_text=mode != "audio", labels=labels
        )


def _check_batch(recipe: Recipe, mesh: Mesh) -> None:
    size, parts = recipe.training.batch_size, recipe.training.accumulation
    if size % (parts * mesh.size):
        raise InvalidInput(
            f"training.batch_size is {size}, which {mesh.size} devices in {parts} part{'s' * (parts > 1)} can't share "
            f"evenly; choose a multiple of {parts * mesh.size}"
        )


def _texts(corpus: Corpus) -> list[str]:
    return [row.text or "" for row in corpus.manifest.rows(corpus.rows(TRAIN))]


def _record(job: TrainConfig, corpus: Corpus, labels: Sequence[str], sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the results depend on. A run with other settings is not continued."""
    return {
        "recipe": job.recipe.settings(),
        "manifest": corpus.manifest.sha256,
        "columns": dict(corpus.manifest.columns),
        "label_map": dict(corpus.manifest.label_map),
        "time_unit": job.time_unit,
        "labels": list(labels),
        "clips": {role: len(corpus.rows(role)) for role in (TRAIN, VALID, TEST)},
        "audio_root": job.root,
        "sources": dict(sources),
        "versions": versions("speech_emotion_jax", "jax"),
    }


def _together(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def _learn(job: TrainConfig, corpus: Corpus, beginning: InitialModel, mesh: Mesh, folder: Folder) -> None:
    """Run the training loop to its end and publish the best state."""
    recipe, settings = job.recipe, job.recipe.training
    clips, held_out = (_clips(job, corpus, role, beginning) for role in (TRAIN, VALID))
    steps = StepBatches(
        labels=clips.labels,
        frames=clips.frames(),
        tokens=clips.tokens(),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        pool=settings.pool,
        balanced=recipe.data.balanced,
        seed=settings.seed,
    )
    method = _method(
        recipe, beginning.config, np.bincount(clips.labels, minlength=len(beginning.config.labels)), len(steps)
    )
    learned, frozen = _placed(recipe, beginning, mesh)
    for each in (clips, held_out):
        _compute_once(each, method, learned, frozen, mesh, settings.batch_size)
    factor = schedule(recipe.optimizer, len(steps))
    with StateStore(Path(job.output, STATES), settings.keep_last) as saves:
        shardings = method.shardings(learned, mesh)
        state: TrainState = jax.jit(method.init_state, out_shardings=shardings)(learned)
        standing = None
        if (latest := saves.latest()) is not None:
            state, standing = saves.restore(latest, state)
        fit = TrainingLoop(
            method,
            settings,
            lambda step: recipe.optimizer.learning_rate * float(factor(step)),
            DeviceFeed(clips, mesh, settings.accumulation),
            steps,
            Validator(
                method,
                DeviceFeed(held_out, mesh),
                [beginning.config.labels[label] for label in held_out.labels],
                settings.batch_size,
            ),
            frozen,
            [row.id for row in corpus.manifest.rows(corpus.rows(TRAIN))],
            saves,
            History.resume(folder, 0 if standing is None else int(state.step)),
        )
        standing = fit.run(state, standing)
        saves.wait()
        assert standing.best_step is not None, "the last step is validated"
        best, _ = saves.restore(standing.best_step, state)
    _publish(job, beginning, (best.average or best.learning) | frozen)


def _method(recipe: Recipe, config: EmotionConfig, counts: Int[np.ndarray, " labels"], steps: int) -> TrainingMethod:
    """Create the training method. `counts` are the training clips of each label."""
    shapes, freeze, settings = parameter_shapes(config), recipe.optimizer.freeze, recipe.training
    weights = class_weights(counts) if recipe.loss.class_weights == "balanced" else np.ones(len(counts), np.float32)
    return TrainingMethod(
        config,
        make_optimizer(recipe.optimizer, shapes, steps),
        jnp.asarray(weights),
        label_smoothing=recipe.loss.label_smoothing,
        focal=recipe.loss.focal,
        precision=settings.precision,
        remat=settings.remat,
        frozen_layers={kind: frozen_layers(shapes, freeze, f"{kind}_encoder") for kind in ("audio", "text")},
        ema=settings.ema,
        across_batch=settings.across_batch,
    )


def _placed(recipe: Recipe, beginning: InitialModel, mesh: Mesh) -> tuple[Parameters, Parameters]:
    """Put the parameters on the devices. Returns those that are trained and those that are frozen."""
    shapes = parameter_shapes(beginning.config)
    chosen, where = trainable_paths(shapes, recipe.optimizer.freeze), parameter_shardings(shapes, mesh)
    placed = {path: place(array, where[path]) for path, array in beginning.parameters.items()}
    return (
        {path: array for path, array in placed.items() if path in chosen},
        {path: array for path, array in placed.items() if path not in chosen},
    )


def _clips(job: TrainConfig, corpus: Corpus, role: str, beginning: InitialModel) -> TrainingClips:
    config, recipe = beginning.config, job.recipe
    rows = corpus.manifest.rows(corpus.rows(role))
    ids = sources = None
    if config.text is not None:
        assert beginning.text_folder is not None
        tokenizer = TextTokenizer(beginning.text_folder, config.text.max_tokens)
        with progress("Reading the texts"):
            ids = [tokenizer(row.text).ids for row in rows]
    if config.audio is not None:
        sources = [source for row in rows if (source := recording_source(row, job.root)) is not None]
    return TrainingClips(
        labels=np.array([config.labels.index(row.label or "") for row in rows]),
        sources=sources,
        ids=ids,
        pad_token=0 if config.text is None else config.text.pad_token_id,
        max_seconds=recipe.data.max_seconds,
        augment=recipe.augment if role == TRAIN else AugmentConfig(),
    )


def _compute_once(
    clips: TrainingClips, method: TrainingMethod, learned: Parameters, frozen: Parameters, mesh: Mesh, batch_size: int
) -> None:
    """Precompute what no step changes: vectors of frozen encoders, features of unchanging clips."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def vectors(kind: str) -> Callable[[Mapping[str, Any]], jax.Array]:
        program = on_mesh(jax.jit(partial(method.vectors, kind), out_shardings=everywhere), mesh)
        return lambda batch: program(learned | frozen, batch)

    once = method.computed_once(learned)
    if "audio" in once and clips.fixed:
        cache_vectors(clips, "audio", vectors("audio"), mesh, batch_size)
    else:
        cache_features(clips, mesh, batch_size)
    if "text" in once:
        cache_vectors(clips, "text", vectors("text"), mesh, batch_size)


def _publish(job: TrainConfig, beginning: InitialModel, parameters: Parameters) -> None:
    """Write the checkpoint in the published layout and converted."""
    whole = {path: _gathered(array) for path, array in parameters.items()}
    if jax.process_index() == 0:
        config, language = beginning.config, job.recipe.model.language
        published, best = Path(job.output, PUBLISHED), Path(job.output, BEST)
        shutil.rmtree(published, ignore_errors=True)  # left by a run that was killed here
        text, audio = beginning.text_folder, beginning.audio_folder
        if jax.process_count() == 1:
            publish_and_convert(config, language, whole, published, best, text_assets=text, audio_assets=audio)
        else:
            publish(config, whole, published, text_assets=text, audio_assets=audio)
            _convert_apart(config, language, published, best)
    _together("published")


def _convert_apart(config: EmotionConfig, language: str, published: Path, best: Path) -> None:
    """Convert in another process, because in this one Orbax would wait for the other hosts."""
    command = [
        *(sys.executable, "-c", "from speech_emotion_jax.cli.main import main; raise SystemExit(main())"),
        *("convert", str(published), str(best), "--mode", config.mode, "--language", language),
        *("--labels", ",".join(config.labels)),
        *(("--text-encoder", str(published / TEXT_ENCODER)) if config.mode in FUSION_MODES else ()),
    ]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.DEVNULL)


def _gathered(array: jax.Array) -> np.ndarray:
    """Return a whole parameter in the memory of this host."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _evaluated(job: TrainConfig, corpus: Corpus) -> EvaluateResult:
    """Score the best state on the test clips or, if there are none, on the validation clips."""
    return evaluate(
        EvaluateConfig(
            manifest=str(Path(job.output, MANIFEST)),
            output=str(Path(job.output, EVALUATION)),
            request=Request(str(Path(job.output, BEST))),
            audio_root=job.root,
            columns=corpus.columns(),
            label_map=dict(corpus.manifest.label_map),
            split=TEST if corpus.rows(TEST) else VALID,
            time_unit=job.time_unit,
            group_by=job.recipe.data.group_by,
        )
    )
