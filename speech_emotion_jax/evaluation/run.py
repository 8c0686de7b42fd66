"""The bulk run: a manifest of clips to predictions, metrics and a report, each clip exactly once.

OUT/run.json             what is scored, by what, with which settings; another run does not continue this one
OUT/part-*.parquet       what was scored so far, written whole; gone when the run is finished
OUT/predictions.parquet  the manifest's columns and what was found, in the manifest's order
OUT/embeddings.parquet   pooled vectors, where asked for
OUT/metrics.json         where the manifest has labels
OUT/throughput.json      what it took
OUT/report.html, *.png   the same to look at; the last to be written
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ..audio import describe
from ..checkpoints import EmotionCheckpointInfo, Request, load_resolved, resolve_emotion, resolve_whisper
from ..config import EmotionConfig
from ..corpus import Manifest, read_manifest, validate
from ..errors import InvalidInput, SpeechEmotionError
from ..inference import Scorer, default_batch_size
from ..runtime.devices import select_mesh
from ..runtime.hosts import is_shared_folder
from ..runtime.progress import progress
from ..runtime.storage import Folder, is_remote
from ..runtime.versions import versions
from ..whisper import TranscriptionOptions, WhisperPipeline
from .batches import BatchPlan
from .mesh import ScoredBatch, score_batches
from .metrics import measure
from .parts import OrderedResults, ResultParts, Throughput, write_tables
from .reading import ClipInput, read_ahead, recording_source
from .report.lines import summary
from .report.page import write_report
from .results import PREDICTIONS, RECORD, SCHEMA, EvaluationRun, claim_folder

logger = logging.getLogger("speech_emotion_jax")

METRICS, THROUGHPUT, EMBEDDINGS, REPORT = "metrics.json", "throughput.json", "embeddings.parquet", "report.html"

BLOCK = 8  # neighbouring batches that one host takes: of one shape mostly, for the devices of a host
POLL_SECONDS = 1.0  # between looks whether the other hosts are done


@dataclass(frozen=True)
class EvaluateConfig:
    """What is to be scored, by what, and where to.

    `columns`, `label_map`, `split` and `time_unit` are as in `read_manifest`. Rows without text are transcribed by
    `whisper`, or refused where that is None. `batch_size` is a device's; None: what is best there. `limit` takes the
    first rows only. A killed run loses the work of `save_every` seconds at most, and one batch.
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
    precision: str = "float32"
    batch_size: int | None = None
    device: object = None
    embeddings: bool = False
    group_by: str | None = None
    save_every: float = 30.0

    @property
    def root(self) -> str:
        """The folder that recordings are named from: the manifest's own, where none is given."""
        return self.audio_root or ("" if is_remote(self.manifest) else os.path.dirname(self.manifest)) or "."


@dataclass(frozen=True)
class EvaluateResult:
    """What became of a run: how many clips have an error, and what to say. `finished` is false on all hosts but one."""

    finished: bool
    clips: int
    errors: int
    text: str


def evaluate(job: EvaluateConfig) -> EvaluateResult:
    """Score what of a manifest is not scored yet and, when all is, write predictions, metrics and the report.

    Raises InvalidInput or UnreadableInput, before anything is scored, for a manifest that can't be used, an output
    folder that holds another run, and a checkpoint that can't be loaded.
    """
    for name, value in (("batch size", job.batch_size), ("limit", job.limit)):
        if value is not None and value < 1:
            raise InvalidInput(f"the {name} is {value}; it must be at least 1")
    folder = Folder.open(job.output)
    with progress("Reading the manifest"):
        manifest = read_manifest(
            job.manifest, columns=job.columns, split=job.split, label_map=job.label_map, time_unit=job.time_unit
        )
        if job.limit is not None:
            manifest = replace(
                manifest, table=manifest.table.slice(0, job.limit), file_rows=manifest.file_rows[: job.limit]
            )
    names = manifest.table.column_names
    if job.group_by not in (None, *names):
        raise InvalidInput(f"{job.manifest} has no column {job.group_by!r} to group by; it has {', '.join(names)}")
    checkpoint = resolve_emotion(job.request)
    config = checkpoint.config
    with progress("Checking the manifest"):
        validate(
            manifest,
            audio_root=job.root,
            needs_audio=config.audio is not None or job.whisper is not None,
            needs_text=config.text is not None and job.whisper is None,
            labels=config.labels,
        )
    if config.text is not None and job.whisper is not None:
        resolve_whisper(Request(job.whisper))  # Fails now if it is missing, not when the first row needs it.
    mesh = select_mesh(job.device)
    platform = mesh.devices.flat[0].platform
    batch_size = default_batch_size(config, platform) if job.batch_size is None else job.batch_size
    record = {
        "schema": SCHEMA,
        "labels": list(config.labels),
        "columns": dict(manifest.columns),
        "label_map": dict(manifest.label_map),
        "settings": _settings(job, batch_size, manifest, checkpoint, mesh.devices.flat[0]),
    }
    claim_folder(folder, RECORD, record)
    shared = is_shared_folder(folder)
    if _finished(folder, job):
        return _outcome(folder)

    parts = ResultParts(folder, config.labels)
    batches = BatchPlan(
        manifest, batch_size, lambda row: recording_source(row, job.root), has_audio=config.audio is not None
    )
    if not folder.holds(PREDICTIONS):
        mine = _share(len(batches), parts)
        if mine:
            place = NamedSharding(mesh, PartitionSpec())
            scorer = Scorer(load_resolved(checkpoint, place, job.precision), mesh)
            _score(job, manifest, batches, mine, scorer, parts)
            scorer.close()
        if not shared:
            return EvaluateResult(False, 0, 0, _own_share(folder, len(mine)))
    if jax.process_index() > 0:
        return _await_report(folder)
    if not folder.holds(PREDICTIONS):
        _await_parts(parts, len(batches))
        _merge(folder, OrderedResults(parts, manifest, batches), config, job)
    _describe(folder, job, record, mesh.size)
    parts.remove()
    return _outcome(folder)


def _settings(
    job: EvaluateConfig,
    batch_size: int,
    manifest: Manifest,
    checkpoint: EmotionCheckpointInfo,
    device: jax.Device,
) -> dict[str, Any]:
    """All that the numbers depend on: a run that was begun with others is not continued."""
    return {
        "manifest": manifest.sha256,
        "audio_root": job.root,
        "split": job.split,
        "time_unit": job.time_unit,
        "limit": job.limit,
        "model": job.request.model_id,
        "mode": checkpoint.config.mode,
        "language": checkpoint.language,
        "weights": checkpoint.weight_digests(),
        "whisper": job.whisper,
        "precision": job.precision,
        "batch_size": batch_size,
        "embeddings": job.embeddings,
        "device": device.device_kind,
        "versions": versions("speech_emotion_jax", "jax"),
    }


def _finished(folder: Folder, job: EvaluateConfig) -> bool:
    """Whether all is written; the metrics by the groups that are asked for now."""
    if not folder.holds(PREDICTIONS) or not folder.holds(REPORT):
        return False
    return not folder.holds(METRICS) or json.loads(folder.read(METRICS))["group_by"] == job.group_by


def _share(count: int, parts: ResultParts) -> list[int]:
    """The batches that this host has to score still."""
    done = {number for part in parts.all() for number in part.batches}
    hosts, host = jax.process_count(), jax.process_index()
    block = min(BLOCK, -(-count // hosts))
    return [number for number in range(count) if number // block % hosts == host and number not in done]


def _score(
    job: EvaluateConfig,
    manifest: Manifest,
    batches: BatchPlan,
    numbers: Sequence[int],
    scorer: Scorer,
    parts: ResultParts,
) -> None:
    clips = min(len(numbers) * batches.batch_size, len(manifest))
    pending: list[ScoredBatch] = []
    started, compiled = time.perf_counter(), 0.0
    reads = read_ahead(batches, numbers, scorer, batches.source, ahead=2 * scorer.mesh.size + 2)
    transcriber = _Transcriber(job, batches.batch_size, scorer)

    def save() -> None:
        nonlocal pending, started, compiled
        now, total = time.perf_counter(), scorer.compile_seconds
        if pending:
            parts.save(pending, _effort(pending, now - started, total - compiled))
        pending, started, compiled = [], now, total

    try:
        with progress(f"Scoring {clips:,} clips", clips) as advance:
            for scored in score_batches(reads, scorer, batches.batch_size, transcriber):
                pending.append(scored)
                advance(len(scored.results))
                if time.perf_counter() - started >= job.save_every:
                    save()
    finally:  # what was scored before an interruption is good
        save()
        transcriber.close()


def _effort(batches: Sequence[ScoredBatch], seconds: float, compile_seconds: float) -> Throughput:
    results = [result for batch in batches for result in batch.results]
    effort = Throughput(len(results), sum(each.duration or 0.0 for each in results), seconds, compile_seconds)
    logger.info("%d clips scored, %.1f s of sound a second", effort.clips, effort.audio_seconds / seconds)
    return effort


class _Transcriber:
    """Gives rows without text theirs. Whisper is loaded when the first one comes."""

    def __init__(self, job: EvaluateConfig, batch_size: int, scorer: Scorer):
        self._job = job
        self._batch_size = batch_size
        self._scorer = scorer
        self._whisper: WhisperPipeline | None = None

    def __call__(self, readings: Sequence[ClipInput]) -> None:
        if not readings:
            return
        if self._whisper is None:
            assert self._job.whisper is not None, "the manifest was checked"
            self._whisper = WhisperPipeline.from_pretrained(
                self._job.whisper, precision=self._job.precision, device=self._job.device
            )
        sources = [reading.source for reading in readings if reading.source is not None]
        options = TranscriptionOptions(language=self._scorer.language, batch_size=self._batch_size)
        for reading, heard in zip(readings, self._whisper.transcribe_each(sources, options), strict=True):
            if isinstance(heard, SpeechEmotionError):
                reading.error = str(heard)
            elif not heard["text"]:
                reading.error = f"nothing that is said in {describe(reading.source)} could be transcribed"
            else:
                reading.text = heard["text"]
                reading.tokens = self._scorer.tokens(reading.text)

    def close(self) -> None:
        if self._whisper is not None:
            self._whisper.close()


def _await_parts(parts: ResultParts, count: int) -> None:
    """Wait for the other hosts' shares. A host that dies ends this one, too."""
    if jax.process_count() == 1:
        return
    with progress("Waiting for the other hosts"):
        while len({number for part in parts.all() for number in part.batches}) < count:
            time.sleep(POLL_SECONDS)


def _await_report(folder: Folder) -> EvaluateResult:
    with progress("Waiting for host 0"):
        while not folder.holds(REPORT):
            time.sleep(POLL_SECONDS)
    return EvaluateResult(False, 0, 0, f"host {jax.process_index()} has done its share; host 0 has the results")


def _own_share(folder: Folder, scored: int) -> str:
    return (
        f"host {jax.process_index()} scored {scored} batches into a {folder.name} of its own; bring run.json and the "
        "part-*.parquet of all hosts into one folder, and give the same command there on one host"
    )


def _merge(folder: Folder, merge: OrderedResults, config: EmotionConfig, job: EvaluateConfig) -> None:
    with progress("Writing the predictions"):
        if job.embeddings:
            vectors = merge.embeddings(audio=config.audio is not None, text=config.text is not None)
            write_tables(folder, EMBEDDINGS, vectors)
        effort = sum((part.effort for part in merge.parts.all()), start=Throughput())
        folder.write(THROUGHPUT, json.dumps(asdict(effort), indent=1).encode())
        write_tables(folder, PREDICTIONS, merge.predictions())


def _describe(folder: Folder, job: EvaluateConfig, record: Mapping[str, Any], devices: int) -> None:
    """Metrics and report of the predictions."""
    run = EvaluationRun.read(job.output)
    metrics = None
    rows = [row for row, (good, truth) in enumerate(zip(run.scored, run.truth, strict=True)) if good and truth]
    if rows:
        groups = run.column(job.group_by) if job.group_by is not None else None
        with progress("Measuring"):
            metrics = {
                "group_by": job.group_by,
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
    throughput = {**json.loads(folder.read(THROUGHPUT)), "hosts": jax.process_count(), "devices": devices}
    provenance = {
        "command": " ".join(sys.argv),
        "python": sys.version.split()[0],
        "devices": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        **record,
    }
    with progress("Writing the report"):
        write_report(folder, run, metrics, group_by=job.group_by, throughput=throughput, provenance=provenance)


def _outcome(folder: Folder) -> EvaluateResult:
    run = EvaluationRun.read(folder.name)
    metrics = json.loads(folder.read(METRICS)) if folder.holds(METRICS) else None
    errors = int((~run.scored).sum())
    return EvaluateResult(True, len(run.scored), errors, summary(run, metrics, json.loads(folder.read(THROUGHPUT))))
