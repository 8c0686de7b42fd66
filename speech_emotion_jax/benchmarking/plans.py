"""Plan the benchmarks: for each task, the sides that take part, what they load, and their workloads.

The first side of a case is ours. The others are compared with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..audio import SAMPLE_RATE, WINDOW_SECONDS, feature_frames
from ..config import EmotionConfig
from ..errors import InvalidInput
from ..models import audio_encoder_flops, text_encoder_flops
from .clips import count_tokens, make_text, meacorpus_lengths, write_clips
from .machine import memory_bytes
from .weights import RandomCheckpoint

OURS, REMAT = "ours", "ours, remat"
CAREFUL = "PyTorch, careful"
DIRECT = "PyTorch, the class called directly"
TOOLKIT = "the toolkit's way"

TURN = 8  # clips in one turn of a bulk run
TOOLKIT_CLIPS = 8  # clips for the toolkit's way, spread over all lengths; more would take many minutes


@dataclass(frozen=True)
class WorkerSpec:
    """A side that stays loaded in a process of its own.

    Attributes:
        module: the module of this wing that the process runs.
        task: the task that it loads.
        settings: the settings of the task.
        python: the Python of another environment. None for this one.
    """

    module: str
    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None


@dataclass(frozen=True)
class CommandSpec:
    """A side that starts a new process for every run.

    Attributes:
        arguments: a module of the package and its arguments, in which {name} stands for a value of the workload.
    """

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A case: what the sides run.

    Attributes:
        name: the name of the case.
        sides: the names of the sides, ours first.
        workloads: what is run. Each pair of turns takes the next one, and starts again after the last.
        flops: the FLOPs of the model's matrix products for each workload. None if they are not known.
        note: why a side is missing, or what the times include.
        compared: whether the results of the sides are expected to agree.
    """

    name: str
    sides: tuple[str, ...]
    workloads: tuple[Mapping[str, Any], ...]
    flops: tuple[float, ...] | None = None
    note: str | None = None
    compared: bool = True


@dataclass(frozen=True)
class Plan:
    """Sides that are loaded together, and their cases.

    Attributes:
        task: the task of `benchmark`.
        title: the title of its table.
        precision: "float32" or "bfloat16".
        sides: the sides by name.
        cases: the cases.
    """

    task: str
    title: str
    precision: str
    sides: Mapping[str, WorkerSpec | CommandSpec]
    cases: tuple[Case, ...]


def plan_encoder(checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], *, against: bool) -> Plan:
    """Plan the audio encoder on one clip of each length.

    Args:
        checkpoint: the random checkpoint.
        precision: "float32" or "bfloat16".
        seconds: the lengths of the clips.
        against: whether PyTorch takes part.
    """
    audio = checkpoint.config.audio
    assert audio is not None
    sides = _sides("encoder", checkpoint, precision, (CAREFUL, DIRECT) if against else ())
    cases = []
    for each in sorted(seconds):
        frames = _frames(each)
        # In each layer transformers' class makes a table of (frames, frames, head width) and a copy of it.
        needed = 4 * checkpoint.parameters + 2 * 4 * frames**2 * audio.hidden_size // audio.num_attention_heads
        fits = needed < memory_bytes()
        cases.append(
            Case(
                f"{each:g} s",
                tuple(sides) if fits else (OURS,),
                ({"frames": frames},),
                (audio_encoder_flops(audio, frames),),
                None
                if fits or not against
                else f"PyTorch would need {needed / 1e9:.0f} GB, more than this machine has",
            )
        )
    return Plan("encoder", f"Wav2Vec2-BERT on one clip{checkpoint.size}", precision, sides, tuple(cases))


def plan_prediction(
    checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], folder: Path, *, against: bool
) -> Plan:
    """Plan predictions from a recording of each length and its text.

    Args:
        checkpoint: the random checkpoint.
        precision: "float32" or "bfloat16".
        seconds: the lengths of the clips.
        folder: where the recordings are written.
        against: whether PyTorch takes part.
    """
    sides = _sides("prediction", checkpoint, precision, (CAREFUL, TOOLKIT) if against else ())
    cases = [
        Case(
            f"{each:g} s",
            tuple(sides),
            (_make_clip_workload(folder, each),),
            (_prediction_flops(checkpoint.config, each),),
        )
        for each in sorted(seconds)
    ]
    title = f"From recording and text to probabilities, concat{checkpoint.size}"
    return Plan("prediction", title, precision, sides, tuple(cases))


def plan_start(
    checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], folder: Path, *, against: bool
) -> Plan:
    """Plan a prediction from the start of a process, on the shortest clip. A first run compiles the programs.

    Args:
        checkpoint: the random checkpoint.
        precision: "float32" or "bfloat16".
        seconds: the lengths of the clips, of which the shortest is taken.
        folder: where the recording is written.
        against: whether PyTorch takes part.
    """
    shortest = min(seconds)
    clip = ("--mode", "concat", "--language", "es", "--audio", "{audio}", "--text", "{text}")
    ours = ("__main__", "predict", *clip, "--model-id", str(checkpoint.converted), "--precision", precision, "--json")
    sides = {OURS: CommandSpec(ours)}
    if against:
        folders = (str(checkpoint.published), str(checkpoint.text_encoder))
        sides[TOOLKIT] = CommandSpec(("benchmarking.torch_side", *folders, precision, "{audio}", "{text}"))
    case = Case(f"{shortest:g} s", tuple(sides), (_make_clip_workload(folder, shortest),))
    title = f"From the start of a process to its first prediction, concat{checkpoint.size}"
    return Plan("start", title, precision, sides, (case,))


def plan_bulk(
    checkpoint: RandomCheckpoint, precision: str, clips: int, batch: int | None, folder: Path, *, against: bool
) -> Plan:
    """Plan a bulk run of clips as long as a corpus's, sorted by length, with TURN clips in each turn.

    Ours runs them in batches, as `evaluate` does, and PyTorch one by one.

    Args:
        checkpoint: the random checkpoint.
        precision: "float32" or "bfloat16".
        clips: the number of clips.
        batch: the clips in one batch. None as `evaluate` chooses.
        folder: where the recordings are written.
        against: whether PyTorch takes part.
    """
    sides = _sides("bulk", checkpoint, precision, (CAREFUL, TOOLKIT) if against else (), batch=batch)
    lengths = meacorpus_lengths(clips)
    home = Path(tempfile.mkdtemp(dir=folder))
    recordings = [[str(path), make_text(each)] for path, each in zip(write_clips(home, lengths), lengths, strict=True)]
    flops = [_prediction_flops(checkpoint.config, each) for each in lengths]
    starts = range(0, clips, TURN)
    cases = [
        Case(
            f"{clips} clips{f', {TURN} a turn' if clips > TURN else ''}",
            tuple(name for name in sides if name != TOOLKIT),
            tuple({"clips": recordings[start : start + TURN]} for start in starts),
            tuple(sum(flops[start : start + TURN]) for start in starts),
        )
    ]
    if against:
        some = sorted({int((each + 0.5) * clips / TOOLKIT_CLIPS) for each in range(TOOLKIT_CLIPS)})
        cases.append(
            Case(
                f"{len(some)} of them",
                (OURS, TOOLKIT),
                ({"clips": [recordings[each] for each in some]},),
                (sum(flops[each] for each in some),),
            )
        )
    title = f"Clips as long as Spanish MEACorpus's, concat{checkpoint.size}"
    return Plan("bulk", title, precision, sides, tuple(cases))


TRAINING_SIZES = ((2, 256), (4, 512))  # layers, width
STEPS = 3  # steps in one turn


def plan_training(*, against: bool) -> list[Plan]:
    """Plan steps of training on batches of 4 clips of 3 to 5 s, in mode audio and float32, training all parameters.

    Ours runs with and without rematerialisation. PyTorch's loop keeps all activations.

    Args:
        against: whether PyTorch takes part.
    """
    plans = []
    for layers, width in TRAINING_SIZES:
        size = {"layers": layers, "width": width}
        sides = {name: WorkerSpec("our_side", "training", {**size, "remat": name == REMAT}) for name in (OURS, REMAT)}
        if against:
            sides[CAREFUL] = WorkerSpec("torch_side", "training", size)
        cases = [
            Case(
                f"{layers} layers of {width}{', remat' if name == REMAT else ''}",
                (name, CAREFUL) if against else (name,),
                ({"steps": STEPS},),
                note=f"times are of {STEPS} steps",
                compared=False,
            )
            for name in (OURS, REMAT)
        ]
        plans.append(Plan("training", "Steps of training", "float32", sides, tuple(cases)))
    return plans


def plan_transcription(
    whisper: str, recordings: Sequence[str], batch: int, language: str, other: tuple[str, str] | None, *, against: bool
) -> Plan:
    """Plan greedy transcription from samples to text: recordings of 3 to 6 s one by one, and a batch of recordings.

    Args:
        whisper: the folder of the Whisper checkpoint.
        recordings: paths of audio files.
        batch: the size of the batch.
        language: the language of the recordings.
        other: the Python of an environment with faster-whisper, and a folder in CTranslate2's format. None to leave
            faster-whisper out.
        against: whether PyTorch takes part.

    Raises:
        InvalidInput: if a recording is longer than one window. The sides would process it differently.
    """
    from ..audio import load

    seconds = [len(load(path)) / SAMPLE_RATE for path in recordings]
    for path, each in zip(recordings, seconds, strict=True):
        if each > WINDOW_SECONDS:
            raise InvalidInput(f"{path} takes {each:.0f} s; give recordings of at most {WINDOW_SECONDS} s")
    settings = {"folder": whisper, "recordings": list(recordings), "language": language, "batch": batch}
    sides = {OURS: WorkerSpec("our_side", "transcription", settings)}
    if against:
        sides[CAREFUL] = WorkerSpec("torch_side", "transcription", settings)
    if other is not None:
        python, folder = other
        for kind in ("float32", "int8"):
            sides[f"faster-whisper, {kind}"] = WorkerSpec(
                "faster_whisper_side", "transcription", settings | {"folder": folder, "kind": kind}, python
            )
    alone = [number for number, each in enumerate(seconds) if 3 <= each <= 6]
    length = "3 to 6" if alone else f"{seconds[0]:.1f}"
    cases = (
        Case(f"one clip of {length} s", tuple(sides), tuple({"clips": [number]} for number in alone or [0])),
        Case(
            f"{batch} clips at once",
            tuple(sides),
            ({"clips": [number % len(seconds) for number in range(batch)]},),
        ),
    )
    return Plan("transcription", f"Whisper {Path(whisper).name}, greedy", "float32", sides, cases)


def _sides(
    task: str, checkpoint: RandomCheckpoint, precision: str, others: Sequence[str], **more: Any
) -> dict[str, WorkerSpec]:
    ways = {CAREFUL: "careful", DIRECT: "direct", TOOLKIT: "toolkit"}
    settings = {
        "precision": precision,
        "published": str(checkpoint.published),
        "text_encoder": str(checkpoint.text_encoder),
        "converted": str(checkpoint.converted),
        **more,
    }
    sides = {OURS: WorkerSpec("our_side", task, settings)}
    return sides | {name: WorkerSpec("torch_side", task, settings | {"way": ways[name]}) for name in others}


def _make_clip_workload(folder: Path, seconds: float) -> Mapping[str, str]:
    """Write a recording of that length below the folder, and make its text."""
    home = Path(tempfile.mkdtemp(dir=folder))
    return {"audio": str(write_clips(home, [seconds])[0]), "text": make_text(seconds)}


def _prediction_flops(config: EmotionConfig, seconds: float) -> float:
    assert config.audio is not None
    assert config.text is not None
    assert config.projection_width is not None
    frames = _frames(seconds)
    projector = 2.0 * frames * config.audio.output_width * config.projection_width
    text = text_encoder_flops(config.text, count_tokens(seconds))
    return audio_encoder_flops(config.audio, frames) + projector + text


def _frames(seconds: float) -> int:
    return feature_frames(round(seconds * SAMPLE_RATE))
