"""Check the parity of a checkpoint with the PyTorch original, stage by stage, on the same files.

The original either runs in PyTorch (the extra `torch`), or is replaced by a golden file that it made earlier, so that
a machine without PyTorch can be checked, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..audio import SAMPLE_RATE, AudioSource, read_clip
from ..checkpoints import Request, resolve_checkpoint
from ..config import Architecture, EmotionConfig, WhisperConfig
from ..convert import MODEL
from ..errors import InvalidInput
from ..runtime.devices import select_device
from ..runtime.precision import PRECISIONS, check_precision
from ..runtime.progress import progress
from ..runtime.storage import Folder
from ..runtime.versions import versions
from . import tensors
from .examples import Example, make_examples
from .golden import Golden, GoldenRecording, read_golden, split_path
from .reference_activations import FullActivation
from .report import ParityResult, write_report
from .sides import JaxSide, TorchSide, load_jax_side, load_torch_side, open_reference
from .stages import WAVEFORM
from .verdict import Verdict, judge

PACKAGES = ("speech_emotion_jax", "jax", "torch", "transformers")


@dataclass(frozen=True)
class ParityConfig:
    """The settings of a parity check.

    Attributes:
        request: the checkpoint, of an emotion model or of Whisper.
        recordings: paths of audio files for both sides. With `against`, the golden's own recordings if empty.
        texts: one text for each recording, or one text for all.
        reference: the published folder that PyTorch runs. None for the source of the checkpoint.
        precision: our precision, "float32" or "bfloat16". PyTorch always computes in float32.
        device: our device, as in `select_device`.
        language: the language of the recordings, for Whisper.
        record: the golden file to write.
        against: the golden file to compare with instead of PyTorch.
        output: the folder for the report. None to write none.
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
        """Raise InvalidInput if the precision is unknown or settings exclude each other."""
        check_precision(self.precision)
        if self.against is not None and (self.record, self.reference) != (None, None):
            raise InvalidInput("--against takes the place of PyTorch, so leave --record and --reference out")


def parity(config: ParityConfig) -> ParityResult:
    """Compare our stages with the original's, and write the golden and the report that `config` asks for.

    Args:
        config: the settings.

    Returns:
        The verdicts on the tensors and on each recording.

    Raises:
        InvalidInput: if PyTorch is missing, the golden belongs to another checkpoint, a recording or text cannot be
            used, or one side has a stage that the other lacks.
        UnreadableInput: if the checkpoint, its source, the golden or a recording cannot be read.
    """
    output = None if config.output is None else Folder.open(config.output)
    if config.record is not None:
        split_path(config.record)  # fails early if no file can be written there
    golden = None if config.against is None else read_golden(config.against)
    checkpoint = resolve_checkpoint(config.request)
    architecture = checkpoint.config
    if golden is not None:
        _check_weights(config, golden, checkpoint.weight_digests())
        ours, digests = load_jax_side(config.request, checkpoint, config.precision, config.device, config.language)
        verdicts = list(_compare_with_golden(config, golden, ours))
        expected = {**golden.tensors[config.precision], **golden.constants}
        original = f"the golden {config.against}"
    else:
        examples = _make_examples(config, architecture)
        reference = open_reference(config.request, checkpoint.source, config.reference)
        theirs = load_torch_side(architecture, reference, config.language)
        ours, digests = load_jax_side(config.request, checkpoint, config.precision, config.device, config.language)
        with progress(
            "Taking checksums", sum(len(part.source.tensors) for part in reference.parts.values())
        ) as advance:
            precisions = [config.precision] if config.record is None else PRECISIONS
            file_digests = tensors.digest_files(reference, precisions, advance)
        recordings: list[GoldenRecording] = []
        verdicts = list(_compare_with_torch(config, examples, theirs, ours, recordings))
        constants = theirs.constants()
        expected = {**file_digests[config.precision], **constants}
        original = f"PyTorch, on {reference.parts[MODEL].origin.id}"
        if config.record is not None:
            Golden(
                kind=architecture.kind,
                mode=architecture.mode if isinstance(architecture, EmotionConfig) else None,
                language=reference.language,
                weights={name: part.source.sha256() for name, part in reference.parts.items()},
                tensors=file_digests,
                constants=constants,
                versions=versions(*PACKAGES),
                recordings=recordings,
            ).write(config.record)
    result = ParityResult(
        checkpoint=config.request.model_id,
        original=original,
        precision=config.precision,
        device=select_device(config.device).device_kind,
        versions=versions(*PACKAGES),
        recorded_with={} if golden is None else golden.versions,
        tensor_count=len(digests),
        differing=[name for name, value in digests.items() if expected.get(name) != value],
        verdicts=verdicts,
    )
    if output is not None:
        write_report(output, result)
    return result


def _compare_with_torch(
    config: ParityConfig,
    examples: Sequence[Example],
    theirs: TorchSide,
    ours: JaxSide,
    recordings: list[GoldenRecording],
) -> Iterator[Verdict]:
    """Run both sides on each example. Append a sample of the original's stages to `recordings` for a golden."""
    with _show_progress(len(examples)) as advance:
        for audio, text in examples:
            if audio is not None:
                read_clip(audio)  # raises a clear error for an unusable file before PyTorch reads it
            name = "" if audio is None else Path(audio).name
            stages = theirs.compute_stages(audio, text)
            yield judge(
                name,
                text or "",
                {stage: FullActivation(stage, array) for stage, array in stages.items()},
                ours.compute_stages(stages, audio, text),
                ours.compute_stages_alone(stages),
                config.precision,
            )
            if config.record is not None:
                recordings.append(GoldenRecording.of(name, text, stages))
            advance(1)


def _compare_with_golden(config: ParityConfig, golden: Golden, ours: JaxSide) -> Iterator[Verdict]:
    if config.recordings and len(config.recordings) != len(golden.recordings):
        raise InvalidInput(
            f"{config.against} has {len(golden.recordings)} recordings and {len(config.recordings)} are given; give "
            "the same ones in the same order, or none to use those in the golden"
        )
    with _show_progress(len(golden.recordings)) as advance:
        for number, recording in enumerate(golden.recordings):
            audio: AudioSource | None = config.recordings[number] if config.recordings else None
            if audio is None and WAVEFORM in recording.inputs:
                audio = {"array": recording.inputs[WAVEFORM], "sampling_rate": SAMPLE_RATE}
            stages = ours.compute_stages(recording.inputs, audio, recording.text)
            yield judge(recording.name, recording.text or "", recording.slices, stages, {}, config.precision)
            advance(1)


def _show_progress(count: int) -> AbstractContextManager[Callable[[int], None]]:
    return progress(f"Comparing {count} recording{'s' * (count > 1)}", count)


def _make_examples(config: ParityConfig, architecture: Architecture) -> list[Example]:
    is_whisper = isinstance(architecture, WhisperConfig)
    return make_examples(
        config.recordings,
        config.texts,
        uses_audio=is_whisper or architecture.audio is not None,
        uses_text=not is_whisper and architecture.text is not None,
    )


def _check_weights(config: ParityConfig, golden: Golden, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InvalidInput if the golden was made from other weight files."""
    for part, expected in golden.weights.items():
        for name, digest in expected.items():
            if (actual := digests.get(part, {}).get(name)) != digest:
                own_digest = f"has {actual[:16]}..." if actual else "has no such file"
                raise InvalidInput(
                    f"{config.against} was recorded from another checkpoint: its {name} has the sha256 "
                    f"{digest[:16]}..., and {config.request.model_id} {own_digest}; name the checkpoint "
                    "that was recorded, or record a new golden"
                )
