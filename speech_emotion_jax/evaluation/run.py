"""Score a manifest of clips, each exactly once, and write predictions, metrics and a report.

Files in the output folder:

- run.json: the model, the manifest and the settings. A run with other settings does not continue this one.
- part-*.parquet: the batches scored so far. They are removed when the run is finished.
- problems.csv: the rows without a file or a text, if there are any. They get an error.
- predictions.parquet and predictions.csv: the columns of the manifest and the results, in the manifest's order.
- embeddings.parquet: pooled vectors, if asked for.
- metrics.json: the metrics, if the manifest has labels.
- throughput.json: the time that scoring took.
- report.html and *.png: the report with its figures. report.html is written last.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ..checkpoints import EmotionCheckpointInfo, Request, load_resolved, resolve_emotion, resolve_whisper
from ..config import EmotionConfig
from ..corpus import (
    Manifest,
    fetch_recordings,
    read_manifest,
    recordings_root,
    rename_clashes,
    validate,
    write_csv,
)
from ..errors import InvalidInput
from ..inference import Scorer, default_batch_size
from ..runtime.devices import select_mesh
from ..runtime.hosts import is_shared_folder
from ..runtime.progress import progress
from ..runtime.storage import Folder
from ..runtime.versions import versions
from .batches import BatchPlan
from .mesh import ScoredBatch, score_batches
from .metrics import measure
from .parts import OrderedResults, ResultParts, Throughput, write_tables
from .problems import PROBLEMS, note_clashes, note_problems, write_problems
from .reading import read_ahead, recording_source
from .report.lines import summary
from .report.page import write_report
from .results import PREDICTIONS, PREDICTIONS_CSV, RECORD, SCHEMA, EvaluationRun, claim_folder
from .transcriber import Transcriber

logger = logging.getLogger("speech_emotion_jax")

METRICS, THROUGHPUT, EMBEDDINGS, REPORT = "metrics.json", "throughput.json", "embeddings.parquet", "report.html"

BLOCK = 8  # consecutive batches per host; most have one shape, so the devices of a host can score them together
POLL_SECONDS = 1.0  # between checks whether the other hosts are done


@dataclass(frozen=True)
class EvaluateConfig:
    """The settings of a bulk run.

    Attributes:
        manifest: The manifest's path.
        output: The folder to write to.
        request: The checkpoint.
        audio_root: The folder or address that file names are relative to. None: the manifest's folder.
        columns: See `read_manifest`.
        label_map: See `read_manifest`.
        split: See `read_manifest`.
        time_unit: See `read_manifest`.
        limit: Score the first rows only.
        whisper: The Whisper checkpoint that transcribes rows without text. None: such rows get an error.
        strict: Whether a row without a file or a text is refused. Else it gets an error, and the others are scored.
        precision: "float32" or "bfloat16".
        batch_size: Clips per device. None: the best size for the platform.
        device: The device to use, see `select_mesh`.
        embeddings: Whether to write pooled vectors as well.
        group_by: The column with the groups that the intervals are drawn by.
        save_every: Seconds between saves. A killed run loses at most the work since the last save, and one batch.
    """

    manifest: str
    output: str
    request: Request
    audio_root: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    time_unit: str = "s"
    limit: int | None = None
    whisper: str | None = None
    strict: bool = False
    precision: str = "float32"
    batch_size: int | None = None
    device: object = None
    embeddings: bool = False
    group_by: str | None = None
    save_every: float = 30.0

    @property
    def root(self) -> str:
        """The folder or address that file names are relative to."""
        return recordings_root(self.manifest, self.audio_root)


@dataclass(frozen=True)
class EvaluateResult:
    """The result of a bulk run on one host.

    Attributes:
        finished: Whether the results are in the folder. Of several hosts only host 0 reports them.
        clips: The number of clips.
        errors: The number of clips that could not be scored.
        text: A summary for a terminal.
    """

    finished: bool
    clips: int
    errors: int
    text: str


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Score the clips of a manifest that are not scored yet; then write predictions, metrics and the report.

    Raises:
        InvalidInput: A setting or the manifest can't be used, or the output folder holds another run. Raised before
            anything is scored.
        UnreadableInput: The manifest or the checkpoint can't be read.
    """
    for name, value in (("batch size", config.batch_size), ("limit", config.limit)):
        if value is not None and value < 1:
            raise InvalidInput(f"the {name} is {value}; it must be at least 1")
    folder = Folder.open(config.output)
    with progress("Reading the manifest"):
        manifest = read_manifest(
            config.manifest,
            columns=config.columns,
            split=config.split,
            label_map=config.label_map,
            time_unit=config.time_unit,
        )
        if config.limit is not None:
            manifest = replace(
                manifest, table=manifest.table.slice(0, config.limit), file_rows=manifest.file_rows[: config.limit]
            )
    manifest, renamed = rename_clashes(manifest)
    config = replace(config, group_by=renamed.get(config.group_by or "", config.group_by))
    names = manifest.table.column_names
    if config.group_by not in (None, *names):
        raise InvalidInput(
            f"{config.manifest} has no column {config.group_by!r} to group by; it has {', '.join(names)}"
        )
    checkpoint = resolve_emotion(config.request)
    model_config = checkpoint.config
    needs_audio = model_config.audio is not None or config.whisper is not None
    root = fetch_recordings(manifest, config.root) if needs_audio else config.root
    with progress("Checking the manifest"):
        problems = validate(
            manifest,
            audio_root=root,
            needs_audio=needs_audio,
            needs_text=model_config.text is not None and config.whisper is None,
            labels=model_config.labels,
            strict=config.strict,
        )
    note_clashes(manifest, renamed)
    note_problems(problems, folder, len(manifest))
    if model_config.text is not None and config.whisper is not None:
        resolve_whisper(Request(config.whisper))  # Fails now if it is missing, not when the first row needs it.
    mesh = select_mesh(config.device)
    platform = mesh.devices.flat[0].platform
    batch_size = default_batch_size(model_config, platform) if config.batch_size is None else config.batch_size
    record = {
        "schema": SCHEMA,
        "labels": list(model_config.labels),
        "columns": dict(manifest.columns),
        "label_map": dict(manifest.label_map),
        "settings": _settings(config, batch_size, manifest, checkpoint, mesh.devices.flat[0]),
    }
    claim_folder(folder, RECORD, record)
    if problems and jax.process_index() == 0 and not folder.holds(PROBLEMS):
        write_problems(folder, manifest, problems)
    shared = is_shared_folder(folder)
    if _is_finished(folder, config):
        return _read_result(folder)

    parts = ResultParts(folder, model_config.labels)
    batches = BatchPlan(
        manifest, batch_size, lambda row: recording_source(row, root), has_audio=model_config.audio is not None
    )
    if not folder.holds(PREDICTIONS):
        mine = _batches_of_host(len(batches), parts)
        if mine:
            place = NamedSharding(mesh, PartitionSpec())
            scorer = Scorer(load_resolved(checkpoint, place, config.precision), mesh)
            _score(config, manifest, batches, mine, scorer, parts)
            scorer.close()
        if not shared:
            return EvaluateResult(False, 0, 0, _explain_separate_folders(folder, len(mine)))
    if jax.process_index() > 0:
        return _await_report(folder)
    if not folder.holds(PREDICTIONS):
        _await_parts(parts, len(batches))
        _write_predictions(folder, OrderedResults(parts, manifest, batches), model_config, config)
    _write_report(folder, config, record, mesh.size)
    parts.remove()
    return _read_result(folder)


def _settings(
    config: EvaluateConfig,
    batch_size: int,
    manifest: Manifest,
    checkpoint: EmotionCheckpointInfo,
    device: jax.Device,
) -> dict[str, Any]:
    """Return everything that the results depend on. A run with other settings is not continued."""
    return {
        "manifest": manifest.sha256,
        "audio_root": config.root,
        "split": config.split,
        "time_unit": config.time_unit,
        "limit": config.limit,
        "model": config.request.model_id,
        "mode": checkpoint.config.mode,
        "language": checkpoint.language,
        "weights": checkpoint.weight_digests(),
        "whisper": config.whisper,
        "precision": config.precision,
        "batch_size": batch_size,
        "embeddings": config.embeddings,
        "device": device.device_kind,
        "versions": versions("speech_emotion_jax", "jax"),
    }


def _is_finished(folder: Folder, config: EvaluateConfig) -> bool:
    """Return whether everything is written, including metrics by the groups that are asked for now."""
    if not folder.holds(PREDICTIONS) or not folder.holds(REPORT):
        return False
    return not folder.holds(METRICS) or json.loads(folder.read(METRICS))["group_by"] == config.group_by


def _batches_of_host(count: int, parts: ResultParts) -> list[int]:
    """Return the numbers of the batches that this host still has to score."""
    done = {number for part in parts.all() for number in part.batches}
    hosts, host = jax.process_count(), jax.process_index()
    block = min(BLOCK, -(-count // hosts))
    return [number for number in range(count) if number // block % hosts == host and number not in done]


def _score(
    config: EvaluateConfig,
    manifest: Manifest,
    batches: BatchPlan,
    numbers: Sequence[int],
    scorer: Scorer,
    parts: ResultParts,
) -> None:
    """Score batches and save them as parts."""
    clips = min(len(numbers) * batches.batch_size, len(manifest))
    pending: list[ScoredBatch] = []
    started, compiled = time.perf_counter(), 0.0
    reads = read_ahead(batches, numbers, scorer, batches.source, ahead=2 * scorer.mesh.size + 2)
    transcriber = Transcriber(
        config.whisper, batches.batch_size, scorer, precision=config.precision, device=config.device
    )

    def save() -> None:
        """Save the batches that are scored but not saved."""
        nonlocal pending, started, compiled
        now, total = time.perf_counter(), scorer.compile_seconds
        if pending:
            parts.save(pending, _measure_throughput(pending, now - started, total - compiled))
        pending, started, compiled = [], now, total

    try:
        with progress(f"Scoring {clips:,} clips", clips) as advance:
            for scored in score_batches(reads, scorer, batches.batch_size, transcriber):
                pending.append(scored)
                advance(len(scored.results))
                if time.perf_counter() - started >= config.save_every:
                    save()
    finally:  # Batches that were scored before an interruption are valid.
        save()
        transcriber.close()


def _measure_throughput(batches: Sequence[ScoredBatch], seconds: float, compile_seconds: float) -> Throughput:
    """Sum up the clips of some batches, and log the rate."""
    results = [result for batch in batches for result in batch.results]
    effort = Throughput(len(results), sum(each.duration or 0.0 for each in results), seconds, compile_seconds)
    logger.info("%d more clips saved, %.1f s of audio per second", effort.clips, effort.audio_seconds / seconds)
    return effort


def _await_parts(parts: ResultParts, count: int) -> None:
    """Wait until the other hosts have scored their batches. If a host dies, JAX ends this one too."""
    if jax.process_count() == 1:
        return
    with progress("Waiting for the other hosts"):
        while len({number for part in parts.all() for number in part.batches}) < count:
            time.sleep(POLL_SECONDS)


def _await_report(folder: Folder) -> EvaluateResult:
    """Wait until host 0 has written the report."""
    with progress("Waiting for host 0"):
        while not folder.holds(REPORT):
            time.sleep(POLL_SECONDS)
    return EvaluateResult(False, 0, 0, f"host {jax.process_index()} has scored its batches; host 0 has the results")


def _explain_separate_folders(folder: Folder, scored: int) -> str:
    """Explain how to finish a run whose hosts do not share a folder."""
    return (
        f"host {jax.process_index()} scored {scored} batches into its own folder {folder.name}; copy run.json and the "
        "part-*.parquet files of all hosts into one folder, and run the same command there on one host"
    )


def _write_predictions(
    folder: Folder, merge: OrderedResults, model_config: EmotionConfig, config: EvaluateConfig
) -> None:
    """Write the predictions, and the embeddings if asked for."""
    with progress("Writing the predictions"):
        if config.embeddings:
            vectors = merge.embeddings(audio=model_config.audio is not None, text=model_config.text is not None)
            write_tables(folder, EMBEDDINGS, vectors)
        effort = sum((part.effort for part in merge.parts.all()), start=Throughput())
        folder.write(THROUGHPUT, json.dumps(asdict(effort), indent=1).encode())
        write_tables(folder, PREDICTIONS, merge.predictions())


def _write_report(folder: Folder, config: EvaluateConfig, record: Mapping[str, Any], devices: int) -> None:
    """Write the metrics and the report of the predictions."""
    run = EvaluationRun.read(config.output)
    metrics = None
    rows = [row for row, (good, truth) in enumerate(zip(run.scored, run.truth, strict=True)) if good and truth]
    if rows:
        groups = run.column(config.group_by) if config.group_by is not None else None
        with progress("Measuring"):
            metrics = {
                "group_by": config.group_by,
                "errors": int((~run.scored).sum()),
                "unlabelled": sum(truth is None for truth in run.truth),
                **measure(
                    [truth for row in rows if (truth := run.truth[row]) is not None],
                    run.probabilities[rows],
                    run.labels,
                    groups=None if groups is None else [groups[row] for row in rows],
                ),
            }
        folder.write(METRICS, json.dumps(metrics, indent=1, ensure_ascii=False).encode())
    with progress("Writing the predictions as CSV"), folder.writing(PREDICTIONS_CSV) as file:
        write_csv(run.table, file)
    throughput = {**json.loads(folder.read(THROUGHPUT)), "hosts": jax.process_count(), "devices": devices}
    provenance = {
        "command": " ".join(sys.argv),
        "python": sys.version.split()[0],
        "devices": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        **record,
    }
    with progress("Writing the report"):
        write_report(folder, run, metrics, group_by=config.group_by, throughput=throughput, provenance=provenance)


def _read_result(folder: Folder) -> EvaluateResult:
    """Summarise a finished run."""
    run = EvaluationRun.read(folder.name)
    metrics = json.loads(folder.read(METRICS)) if folder.holds(METRICS) else None
    errors = int((~run.scored).sum())
    return EvaluateResult(True, len(run.scored), errors, summary(run, metrics, json.loads(folder.read(THROUGHPUT))))
