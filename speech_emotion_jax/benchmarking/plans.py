"""What each task measures: which sides take part, what they load, and what they are asked.

The first side of a case is ours; the others are compared with it.
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
from .clips import meacorpus_lengths, text_of, tokens_of, write_clips
from .machine import memory_bytes
from .weights import RandomCheckpoint

OURS, REMAT = "ours", "ours, remat"
CAREFUL = "PyTorch, careful"
DIRECT = "PyTorch, the class called directly"
TOOLKIT = "the toolkit's way"

TURN = 8  # clips of a bulk run
TOOLKIT_CLIPS = 8  # of all, spread over the lengths: more would take it many minutes


@dataclass(frozen=True)
class Contender:
    """A side: the module that runs it, the task of that, and what it loads."""

    module: str
    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None  # another environment's


@dataclass(frozen=True)
class Command:
    """A side that is a new process each time: a module and its arguments, in which a request fills in {names}."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """What is asked, one request a pair, in turn; `flops` are those that each takes, where they are known."""

    name: str
    sides: tuple[str, ...]
    requests: tuple[Mapping[str, Any], ...]
    flops: tuple[float, ...] | None = None
    note: str | None = None
    compared: bool = True  # whether the sides' results ought to be the same


@dataclass(frozen=True)
class Plan:
    """Sides that run at the same time, and their cases."""

    task: str
    title: str
    precision: str
    contenders: Mapping[str, Contender | Command]
    cases: tuple[Case, ...]


def encoder(checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], *, against: bool) -> Plan:
    """The audio encoder on one clip of each length."""
    audio = checkpoint.config.audio
    assert audio is not None
    contenders = _sides("encoder", checkpoint, precision, (CAREFUL, DIRECT) if against else ())
    cases = []
    for each in sorted(seconds):
        frames = _frames(each)
        # A table of (frames, frames, head width) and a copy of it, which the class makes in each layer.
        needed = 4 * checkpoint.parameters + 2 * 4 * frames**2 * audio.hidden_size // audio.num_attention_heads
        fits = needed < memory_bytes()
        cases.append(
            Case(
                f"{each:g} s",
                tuple(contenders) if fits else (OURS,),
                ({"frames": frames},),
                (audio_encoder_flops(audio, frames),),
                None if fits or not against else f"PyTorch would need {needed / 1e9:.0f} GB, more than there is",
            )
        )
    return Plan("encoder", f"Wav2Vec2-BERT on one clip{checkpoint.size}", precision, contenders, tuple(cases))


def prediction(
    checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], folder: Path, *, against: bool
) -> Plan:
    """From a recording of each length and its text to probabilities."""
    contenders = _sides("prediction", checkpoint, precision, (CAREFUL, TOOLKIT) if against else ())
    cases = [
        Case(f"{each:g} s", tuple(contenders), (_request(folder, each),), (_prediction_flops(checkpoint.config, each),))
        for each in sorted(seconds)
    ]
    title = f"From recording and text to probabilities, concat{checkpoint.size}"
    return Plan("prediction", title, precision, contenders, tuple(cases))


def start(
    checkpoint: RandomCheckpoint, precision: str, seconds: Sequence[float], folder: Path, *, against: bool
) -> Plan:
    """The same from the start of a process, on the shortest clip. A run before has compiled."""
    shortest = min(seconds)
    clip = ("--mode", "concat", "--language", "es", "--audio", "{audio}", "--text", "{text}")
    ours = ("cli", "predict", *clip, "--model-id", str(checkpoint.converted), "--precision", precision, "--json")
    sides = {OURS: Command(ours)}
    if against:
        folders = (str(checkpoint.published), str(checkpoint.text_encoder))
        sides[TOOLKIT] = Command(("benchmarking.torch_side", *folders, precision, "{audio}", "{text}"))
    case = Case(f"{shortest:g} s", tuple(sides), (_request(folder, shortest),))
    title = f"From the start of a process to its first prediction, concat{checkpoint.size}"
    return Plan("start", title, precision, sides, (case,))


def bulk(
    checkpoint: RandomCheckpoint, precision: str, clips: int, batch: int | None, folder: Path, *, against: bool
) -> Plan:
    """Clips as long as a corpus's, in the order of their lengths, TURN of them a turn.

    Ours runs them as `evaluate` does, in batches of `batch` (None: as it chooses); PyTorch one by one.
    """
    contenders = _sides("bulk", checkpoint, precision, (CAREFUL, TOOLKIT) if against else (), batch=batch)
    lengths = meacorpus_lengths(clips)
    home = Path(tempfile.mkdtemp(dir=folder))
    found = [[str(path), text_of(each)] for path, each in zip(write_clips(home, lengths), lengths, strict=True)]
    flops = [_prediction_flops(checkpoint.config, each) for each in lengths]
    starts = range(0, clips, TURN)
    cases = [
        Case(
            f"{clips} clips{f', {TURN} a turn' if clips > TURN else ''}",
            tuple(name for name in contenders if name != TOOLKIT),
            tuple({"clips": found[start : start + TURN]} for start in starts),
            tuple(sum(flops[start : start + TURN]) for start in starts),
        )
    ]
    if against:
        some = sorted({int((each + 0.5) * clips / TOOLKIT_CLIPS) for each in range(TOOLKIT_CLIPS)})
        cases.append(
            Case(
                f"{len(some)} of them",
                (OURS, TOOLKIT),
                ({"clips": [found[each] for each in some]},),
                (sum(flops[each] for each in some),),
            )
        )
    title = f"Clips as long as Spanish MEACorpus's, concat{checkpoint.size}"
    return Plan("bulk", title, precision, contenders, tuple(cases))


TRAINING_SIZES = ((2, 256), (4, 512))  # layers, width
STEPS = 3  # of a turn


def training(*, against: bool) -> list[Plan]:
    """Steps on batches of 4 clips of 3 to 5 s, mode audio, float32, all parameters learning.

    Ours without and with computing each layer anew on the way back; PyTorch's loop keeps what is inside them.
    """
    plans = []
    for layers, width in TRAINING_SIZES:
        size = {"layers": layers, "width": width}
        contenders = {
            name: Contender("our_side", "training", {**size, "remat": name == REMAT}) for name in (OURS, REMAT)
        }
        if against:
            contenders[CAREFUL] = Contender("torch_side", "training", size)
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
        plans.append(Plan("training", "Steps of training", "float32", contenders, tuple(cases)))
    return plans


def transcription(
    whisper: str, recordings: Sequence[str], batch: int, language: str, other: tuple[str, str] | None, *, against: bool
) -> Plan:
    """Whisper, greedily, from samples to text: recordings of 3 to 6 s alone, and a batch of all of them.

    Raises InvalidInput for a recording of more than a window, of which the sides would not hear the same.
    """
    from ..audio import load

    seconds = [len(load(path)) / SAMPLE_RATE for path in recordings]
    for path, each in zip(recordings, seconds, strict=True):
        if each > WINDOW_SECONDS:
            raise InvalidInput(
                f"{path} takes {each:.0f} s; transcription is timed on clips of up to {WINDOW_SECONDS} s"
            )
    settings = {"folder": whisper, "recordings": list(recordings), "language": language, "batch": batch}
    contenders = {OURS: Contender("our_side", "transcription", settings)}
    if against:
        contenders[CAREFUL] = Contender("torch_side", "transcription", settings)
    if other is not None:
        python, folder = other
        for kind in ("float32", "int8"):
            contenders[f"faster-whisper, {kind}"] = Contender(
                "faster_whisper_side", "transcription", settings | {"folder": folder, "kind": kind}, python
            )
    alone = [number for number, each in enumerate(seconds) if 3 <= each <= 6]
    length = "3 to 6" if alone else f"{seconds[0]:.1f}"
    cases = (
        Case(f"one clip of {length} s", tuple(contenders), tuple({"clips": [number]} for number in alone or [0])),
        Case(
            f"{batch} clips at once",
            tuple(contenders),
            ({"clips": [number % len(seconds) for number in range(batch)]},),
        ),
    )
    return Plan("transcription", f"Whisper {Path(whisper).name}, greedy", "float32", contenders, cases)


def _sides(
    task: str, checkpoint: RandomCheckpoint, precision: str, others: Sequence[str], **more: Any
) -> dict[str, Contender]:
    ways = {CAREFUL: "careful", DIRECT: "direct", TOOLKIT: "toolkit"}
    settings = {
        "precision": precision,
        "published": str(checkpoint.published),
        "text_encoder": str(checkpoint.text_encoder),
        "converted": str(checkpoint.converted),
        **more,
    }
    sides = {OURS: Contender("our_side", task, settings)}
    return sides | {name: Contender("torch_side", task, settings | {"way": ways[name]}) for name in others}


def _request(folder: Path, seconds: float) -> Mapping[str, str]:
    """A recording of that length, written below the folder, and its text."""
    home = Path(tempfile.mkdtemp(dir=folder))
    return {"audio": str(write_clips(home, [seconds])[0]), "text": text_of(seconds)}


def _prediction_flops(config: EmotionConfig, seconds: float) -> float:
    assert config.audio is not None
    assert config.text is not None
    assert config.projection_width is not None
    frames = _frames(seconds)
    projector = 2.0 * frames * config.audio.output_width * config.projection_width
    text = text_encoder_flops(config.text, tokens_of(seconds))
    return audio_encoder_flops(config.audio, frames) + projector + text


def _frames(seconds: float) -> int:
    return feature_frames(round(seconds * SAMPLE_RATE))
