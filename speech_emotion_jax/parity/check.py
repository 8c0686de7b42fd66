"""A parity check: the PyTorch original and ours on the same files, compared stage by stage.

The original runs in PyTorch (the extra `torch`), or was run before, and a golden keeps what it made: a machine without
PyTorch checks itself against that.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ..audio import SAMPLE_RATE, AudioSource, read_clip
from ..checkpoints import (
    EmotionCheckpointInfo,
    Request,
    WhisperCheckpointInfo,
    load_resolved,
    load_whisper,
    open_published,
    resolve_checkpoint,
)
from ..config import Architecture, EmotionConfig, WhisperConfig
from ..convert import MODEL, TEXT_ENCODER, Published, read_record
from ..errors import InvalidInput, UnreadableInput
from ..models import parameters_of
from ..registry import FUSION_MODES
from ..runtime.console import aligned
from ..runtime.devices import select_device, select_mesh
from ..runtime.pages import page
from ..runtime.precision import PRECISIONS, check_precision
from ..runtime.progress import progress
from ..runtime.storage import Folder
from ..runtime.versions import versions
from ..whisper import WhisperPipeline
from . import tensors
from .difference import Budget, Difference, budget
from .examples import Example, make_examples
from .figure import draw
from .golden import Golden, GoldenRecording, read_golden, split_path
from .jax_emotion import JaxEmotion
from .jax_whisper import JaxWhisper
from .reference_activations import FullActivation
from .stages import WAVEFORM, Stages
from .verdict import StageVerdict, Verdict, judge, worst_rows

SCHEMA = 1
JSON, PAGE, FIGURE = "parity.json", "parity.html", "parity.png"
PACKAGES = ("speech_emotion_jax", "jax", "torch", "transformers")
HEAD = ("stage", "largest", "mean", "gain", "1 - cosine", "alone", "of budget", "by", "")


@dataclass(frozen=True)
class ParityConfig:
    """What to compare.

    request: the checkpoint, of emotion or Whisper
    recordings, texts: what both sides are given; a text for each recording, or one for all. With `against` they are the
        golden's own where there are none
    reference: the published folder that PyTorch runs; None: the checkpoint's source
    precision: of ours; PyTorch computes in float32
    device: as in `select_device`
    language: of Whisper's recordings
    record: a golden to be written
    against: a golden in place of PyTorch
    output: a folder for the report
    """

    request: Request
    recordings: Sequence[str] = ()
    texts: Sequence[str] = ()
    reference: str | None = None
    precision: str = "float32"
    device: object = None
    language: str = "es"
    record: str | None = None
    against: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.against is not None and (self.record, self.reference) != (None, None):
            raise InvalidInput("--against takes the place of PyTorch, so leave --record and --reference out")


@dataclass(frozen=True)
class ParityResult:
    """What was found: the names of the tensors and constants that are `unlike`, of `count`; verdicts on recordings."""

    checkpoint: str
    original: str
    precision: str
    device: str
    versions: Mapping[str, str]
    recorded_with: Mapping[str, str]  # the versions that made the golden, if there is one
    tensor_count: int
    differing: Sequence[str]
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        return self.first_failure is None

    @property
    def first_failure(self) -> str | None:
        """Where the two sides part first, in words; None where they don't."""
        if self.differing:
            return f"tensors: {self.differing[0]} is the first of {len(self.differing)} that differ"
        for row, verdict in worst_rows(self.verdicts):
            if not row.passed:
                return f"{row.stage}, of {verdict.name}{row.remark and f': {row.remark}'}"
        return None


@runtime_checkable
class _Side(Protocol):
    def compute_stages(self, theirs: Stages, audio: AudioSource | None, text: str | None) -> Stages: ...
    def compute_stages_alone(self, theirs: Stages) -> Stages: ...


def parity(job: ParityConfig) -> ParityResult:
    """Compare, and write the golden and the report that are asked for.

    Raises InvalidInput and UnreadableInput: PyTorch or the source is missing, a golden is of another checkpoint, a
    recording can't be used, one side has a stage that the other lacks.
    """
    output = None if job.output is None else Folder.open(job.output)
    if job.record is not None:
        split_path(job.record)
    golden = None if job.against is None else read_golden(job.against)
    checkpoint = resolve_checkpoint(job.request)
    config = checkpoint.config
    if golden is not None:
        _check_weights(job, golden, checkpoint.weight_digests())
        ours, own = _loaded(job, checkpoint)
        verdicts = list(_against(job, golden, ours))
        expected = {**golden.tensors[job.precision], **golden.constants}
        original = f"the golden {job.against}"
    else:
        examples = _examples(job, config)
        reference = _reference(job, checkpoint.source)
        theirs = _original(job, config, reference)
        ours, own = _loaded(job, checkpoint)
        with progress(
            "Taking checksums", sum(len(part.source.tensors) for part in reference.parts.values())
        ) as advance:
            file_digests = tensors.digest_files(
                reference, [job.precision] if job.record is None else PRECISIONS, advance
            )
        taken: list[GoldenRecording] = []
        verdicts = list(_side_by_side(job, examples, theirs, ours, taken))
        constants = theirs.constants()
        expected = {**file_digests[job.precision], **constants}
        original = f"PyTorch, on {reference.parts[MODEL].origin.id}"
        if job.record is not None:
            mode = config.mode if isinstance(config, EmotionConfig) else None
            weights = {name: part.source.sha256() for name, part in reference.parts.items()}
            Golden(
                config.kind, mode, reference.language, weights, file_digests, constants, versions(*PACKAGES), taken
            ).write(job.record)
    result = ParityResult(
        checkpoint=job.request.model_id,
        original=original,
        precision=job.precision,
        device=select_device(job.device).device_kind,
        versions=versions(*PACKAGES),
        recorded_with={} if golden is None else golden.versions,
        tensor_count=len(own),
        differing=[name for name, value in own.items() if expected.get(name) != value],
        verdicts=verdicts,
    )
    if output is not None:
        _write(output, result)
    return result


def _side_by_side(
    job: ParityConfig, examples: Sequence[Example], original: Any, ours: _Side, taken: list[GoldenRecording]
) -> Iterator[Verdict]:
    """Run both on each recording; what a golden keeps of it is added to `taken`, where one is to be written."""
    with _comparing(len(examples)) as advance:
        for audio, text in examples:
            if audio is not None:
                read_clip(audio)  # says in a sentence what can't be used
            name = "" if audio is None else Path(audio).name
            theirs = original.compute_stages(audio, text)
            whole = {stage: FullActivation(stage, array) for stage, array in theirs.items()}
            yield judge(
                name,
                text or "",
                whole,
                ours.compute_stages(theirs, audio, text),
                ours.compute_stages_alone(theirs),
                job.precision,
            )
            if job.record is not None:
                taken.append(GoldenRecording.of(name, text, theirs))
            advance(1)


def _against(job: ParityConfig, golden: Golden, ours: _Side) -> Iterator[Verdict]:
    if job.recordings and len(job.recordings) != len(golden.recordings):
        raise InvalidInput(
            f"{job.against} has {len(golden.recordings)} recordings and {len(job.recordings)} are given; give the same "
            "ones in the same order, or none, as it brings its own"
        )
    with _comparing(len(golden.recordings)) as advance:
        for number, taken in enumerate(golden.recordings):
            audio: AudioSource | None = job.recordings[number] if job.recordings else None
            if audio is None and WAVEFORM in taken.inputs:
                audio = {"array": taken.inputs[WAVEFORM], "sampling_rate": SAMPLE_RATE}
            found = ours.compute_stages(taken.inputs, audio, taken.text)
            yield judge(taken.name, taken.text or "", taken.slices, found, {}, job.precision)
            advance(1)


def _comparing(count: int) -> AbstractContextManager[Callable[[int], None]]:
    return progress(f"Comparing {count} recording{'s' * (count > 1)}", count)


def _examples(job: ParityConfig, config: Architecture) -> list[Example]:
    hears = isinstance(config, WhisperConfig) or config.audio is not None
    return make_examples(
        job.recordings, job.texts, hears=hears, reads=isinstance(config, EmotionConfig) and config.text is not None
    )


def _reference(job: ParityConfig, source: Path | Published) -> Published:
    """The published checkpoint that PyTorch runs."""
    if isinstance(source, Published) and job.reference is None:
        return source
    asked = job.request
    mode, language, text_encoder, revision = asked.mode, asked.language, asked.text_encoder, asked.revision
    reference = job.reference or asked.model_id
    if isinstance(source, Path):
        record = read_record(source)
        reference = job.reference or record.parts[MODEL].id
        revision = None if job.reference else record.parts[MODEL].revision
        if isinstance(record.config, EmotionConfig):
            mode, language = record.config.mode, record.language
            if mode in FUSION_MODES and text_encoder is None and not (Path(reference) / TEXT_ENCODER).is_dir():
                text_encoder = record.parts[TEXT_ENCODER].id
    try:
        return open_published(
            Request(reference, mode, language, text_encoder, revision, asked.weights, asked.labels, asked.registry)
        )
    except UnreadableInput as error:
        raise UnreadableInput(
            f"PyTorch's side can't be read: {error}; name the published folder with --reference"
        ) from error


def _original(job: ParityConfig, config: Architecture, reference: Published) -> Any:
    """The PyTorch side. Raises InvalidInput where it can't be had."""
    folders = {name: part.origin.folder for name, part in reference.parts.items()}
    try:
        from transformers import logging

        from .original import TorchOriginal
        from .original_whisper import WhisperOriginal
    except ImportError as error:
        raise InvalidInput(
            f"the original can't be run without PyTorch ({error}): pip install -e '.[torch]', or hold this checkpoint "
            "against a golden with --against FILE"
        ) from error
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # about settings that nobody made here
    if isinstance(config, WhisperConfig):
        return WhisperOriginal(folders[MODEL], job.language)
    return TorchOriginal(folders[MODEL], config.mode, folders.get(TEXT_ENCODER))


def _loaded(
    job: ParityConfig, info: EmotionCheckpointInfo | WhisperCheckpointInfo
) -> tuple[_Side, dict[str, str | float]]:
    """Our side, on one device, and the digests of its tensors and its constants."""
    mesh = select_mesh(select_device(job.device))
    place = NamedSharding(mesh, PartitionSpec())
    if isinstance(info, WhisperCheckpointInfo):
        whisper = load_whisper(job.request.model_id, place, job.precision, revision=job.request.revision)
        own = _stage_0(info.config, whisper.model, job.precision)
        return JaxWhisper(WhisperPipeline(whisper, mesh), job.language), own
    checkpoint = load_resolved(info, place, job.precision)
    return JaxEmotion(checkpoint), _stage_0(info.config, checkpoint.model, job.precision)


def _stage_0(config: Architecture, model: nnx.Module, precision: str) -> dict[str, str | float]:
    digests = tensors.digest_parameters(config, parameters_of(model), precision)
    return {**digests, **tensors.module_constants(config, model)}


def _check_weights(job: ParityConfig, golden: Golden, own: Mapping[str, Mapping[str, str]]) -> None:
    """Raises InvalidInput where a golden is of other weights."""
    for part, expected in golden.weights.items():
        for name, digest in expected.items():
            if (found := own.get(part, {}).get(name)) != digest:
                raise InvalidInput(
                    f"{job.against} was recorded from another checkpoint: its {name} has the sha256 {digest[:16]}..., "
                    f"and {job.request.model_id} {f'has {found[:16]}...' if found else 'has no such file'}; name the "
                    "checkpoint that was recorded, or record it anew"
                )


def parity_as_dict(result: ParityResult) -> dict[str, Any]:
    """The whole report as JSON takes it.

    {"schema", "checkpoint", "original", "precision", "device", "versions", "recorded_with", "passed", "first_bad",
    "worst": {"recording", "text", "stage", "used", "by"}, "tensors": {"count", "differing"}, "recordings": [{"name",
    "text", "stages": [{"stage", "largest", "mean", "gain", "cosine", "size", "budget": {"largest", "mean", "gain"},
    "alone": {the same} or null, "used", "by", "good", "remark"}]}]}. Null is what can't be computed, as of arrays of
    two shapes, and a budget that is none.
    """
    row, verdict = _worst(result)
    return {
        "schema": SCHEMA,
        "checkpoint": result.checkpoint,
        "original": result.original,
        "precision": result.precision,
        "device": result.device,
        "versions": dict(result.versions),
        "recorded_with": dict(result.recorded_with),
        "passed": result.passed,
        "first_bad": result.first_failure,
        "worst": {
            "recording": verdict.recording,
            "text": verdict.text,
            "stage": row.stage,
            "used": _finite(row.budget_used),
            "by": row.criterion,
        },
        "tensors": {"count": result.tensor_count, "differing": list(result.differing)},
        "recordings": [
            {
                "name": verdict.recording,
                "text": verdict.text,
                "stages": [_row_as_data(row, result.precision) for row in verdict.rows],
            }
            for verdict in result.verdicts
        ],
    }


def _row_as_data(row: StageVerdict, precision: str) -> dict[str, Any]:
    alone = None
    if row.alone is not None:
        alone = _numbers(row.alone) | {"budget": _numbers(budget(row.stage, precision, alone=True))}
    return {
        "stage": row.stage,
        **(dict.fromkeys(Difference._fields) if row.difference is None else _numbers(row.difference)),
        "budget": _numbers(budget(row.stage, precision)),
        "alone": alone,
        "used": _finite(row.budget_used),
        "by": row.criterion,
        "good": row.passed,
        "remark": row.remark,
    }


def render_parity(result: ParityResult) -> str:
    """A table for a terminal: of each stage the recording that takes most of its budget."""
    rows = [_cells(row) for row, _ in worst_rows(result.verdicts)]
    return "\n".join([*_facts(result), "", *aligned([HEAD, *rows]), "", _conclusion(result)])


def _facts(result: ParityResult) -> list[str]:
    facts = [
        f"{result.checkpoint}, {result.precision}, on {result.device}",
        f"against {result.original}",
        _listed(result.versions),
    ]
    if result.recorded_with:
        facts.append(f"recorded with {_listed(result.recorded_with)}")
        if changed := [
            f"{name} was {before} and is {result.versions[name]}"
            for name, before in result.recorded_with.items()
            if result.versions.get(name, before) != before
        ]:
            facts.append(f"versions differ: {', '.join(changed)}; what differs below may be theirs, so record it anew")
    same = result.tensor_count - len(result.differing)
    return [
        *facts,
        f"tensors, and constants of their modules: {same} of {result.tensor_count} are the same, bit by bit",
    ]


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in packages.items())


def _conclusion(result: ParityResult) -> str:
    row, verdict = _worst(result)
    of = f" of {len(result.verdicts)}" if len(result.verdicts) > 1 else ""
    used = f"{_share(row.budget_used)} of its budget{row.criterion and f' ({row.criterion})'}"
    worst = f"worst{of}: {verdict.name} at {row.stage}, {used}"
    return f"PASSED; {worst}" if result.passed else f"FAILED at {result.first_failure}; {worst}"


def _worst(result: ParityResult) -> tuple[StageVerdict, Verdict]:
    verdict = max(result.verdicts, key=lambda verdict: verdict.worst.budget_used)
    return verdict.worst, verdict


def _cells(row: StageVerdict) -> list[str]:
    verdict = "ok" if row.passed else f"BAD{row.remark and f', {row.remark}'}"
    if row.difference is None:
        return [row.stage, "", "", "", "", "", "", "", verdict]
    found = row.difference
    numbers = [f"{found.largest:.1e}", f"{found.mean:.1e}", f"{found.gain:+.1e}", f"{1 - found.cosine:.0e}"]
    alone = "" if row.alone is None else f"{row.alone.largest:.1e}"
    return [row.stage, *numbers, alone, _share(row.budget_used), row.criterion, verdict]


def _share(used: float) -> str:
    return f"{used:.0%}" if used < 100 else "far out" if math.isfinite(used) else "none"


def _numbers(found: Difference | Budget) -> dict[str, float | int | None]:
    return {name: _finite(value) for name, value in found._asdict().items()}


def _finite(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None


def _write(folder: Folder, result: ParityResult) -> None:
    """The report as JSON, as a page and as a figure."""
    figure = draw(result.verdicts, result.precision)
    content = page(
        __name__.rpartition(".")[0],
        title=f"Parity of {result.checkpoint}",
        passed=result.passed,
        conclusion=_conclusion(result),
        facts=_facts(result),
        figure=base64.b64encode(figure).decode(),
        head=HEAD,
        tables=[
            {
                "title": verdict.name,
                "rows": [{"cells": _cells(row), "good": row.passed} for row in verdict.rows],
            }
            for verdict in result.verdicts
        ],
    )
    folder.make()
    folder.write(FIGURE, figure)
    folder.write(PAGE, content)
    folder.write(JSON, (json.dumps(parity_as_dict(result), indent=1, ensure_ascii=False) + "\n").encode())
