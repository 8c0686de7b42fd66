"""Load what a timeline needs, and make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import exists
from typing import Any

from ..audio import Cut, stated_seconds
from ..checkpoints import Request
from ..errors import InvalidInput, UnreadableInput
from ..runtime.progress import progress
from ..timeline import (
    UNITS,
    Timeline,
    TimelineUnit,
    Turn,
    Windows,
    check_smoothing,
    count_channels,
    read_notice,
    read_turns,
    smooth,
)
from ..whisper import WhisperPipeline
from .pipeline import EmotionPipeline

EACH = "each"
CHANNELS = {"left": "0", "right": "1"}


@dataclass(frozen=True)
class TimelineConfig:
    """Settings of a timeline.

    Attributes:
        recordings: Paths of the recordings.
        request: The emotion checkpoint.
        units: "segments", "windows", or None: segments if the mode reads text, else windows.
        turns: Files of turns, which take the place of the units.
        window: Length of a window in seconds. None: 10.
        hop: Seconds from one window to the next. None: 2.5.
        channel: "left", "right", a number from 0, "each" for a speaker a channel, or None for the mean of all.
        smooth: Time constant of the smoothing in seconds. None: no smoothing.
        whisper: The transcriber. None: the published one, where texts are missing.
        precision: "float32" or "bfloat16".
        device: As in `EmotionPipeline.from_pretrained`.
        batch_size: Units that are computed together.
    """

    recordings: Sequence[str]
    request: Request
    units: str | None = None
    turns: Sequence[str] | None = None
    window: float | None = None
    hop: float | None = None
    channel: str | None = None
    smooth: float | None = None
    whisper: str | None = None
    precision: str = "float32"
    device: object = None
    batch_size: int | None = None


def make_timeline(config: TimelineConfig) -> Timeline:
    """Load the models and score the parts of recordings. Bad input is refused before models are loaded where it can be.

    Raises:
        InvalidInput: The settings don't fit together, or a recording or a turn can't be used.
        UnreadableInput: A recording, a file of turns or a model is missing or broken.
    """
    turns, windows = _check(config)
    sources = _sources(config)
    request = config.request
    pipeline = EmotionPipeline.from_pretrained(
        request.model_id,
        mode=request.mode,
        language=request.language,
        text_encoder=request.text_encoder,
        precision=config.precision,
        device=config.device,
        batch_size=config.batch_size,
        revision=request.revision,
        weights=request.weights,
        labels=request.labels,
        registry=request.registry,
    )
    reads_text = pipeline.config.text is not None
    units = "turns" if turns is not None else config.units or ("segments" if reads_text else "windows")
    if units == "windows" and windows is None:
        windows = Windows()
    if windows is not None and units != "windows":
        raise InvalidInput("--window and --hop are of --units windows; add it, or leave them out")
    texts_given = turns is not None and all(turn.text is not None for group in turns for turn in group)
    whisper = config.whisper or request.registry.whisper_id(pipeline.language)
    transcriber = None
    if units == "segments" or (reads_text and not texts_given):
        transcriber = _load_whisper(whisper, config)
    settings: dict[str, Any] = {
        "model": request.model_id,
        "mode": pipeline.config.mode,
        "language": pipeline.language,
        "precision": config.precision,
        "units": units,
        "window": None if windows is None else windows.window,
        "hop": None if windows is None else windows.hop,
        "turns": None if config.turns is None else list(config.turns),
        "channel": config.channel,
        "smooth": config.smooth,
        "transcriber": None if transcriber is None else whisper,
    }
    scored = _score(pipeline, sources, config, turns, windows, transcriber)
    return Timeline(
        recordings=config.recordings,
        labels=pipeline.config.labels,
        units=scored if config.smooth is None else smooth(scored, config.smooth),
        settings=settings,
        notice=read_notice(request.model_id),
    )


def _check(config: TimelineConfig) -> tuple[list[list[Turn]] | None, Windows | None]:
    """Check what can be checked without a model. Return the turns and the windows that are asked for."""
    if config.units not in (None, *UNITS):
        raise InvalidInput(f"the units {config.units!r} are unknown; use {' or '.join(UNITS)}, or give turns")
    if missing := [name for name in config.recordings if not exists(name)]:
        raise UnreadableInput(f"{', '.join(missing)} does not exist; check the path")
    if repeated := sorted({name for name in config.recordings if config.recordings.count(name) > 1}):
        raise InvalidInput(f"{', '.join(repeated)} is named twice; name each recording once")
    if config.smooth is not None:
        check_smoothing(config.smooth)
    turns = None if config.turns is None else read_turns(config.turns, config.recordings)
    given = {name: value for name in ("window", "hop") if (value := getattr(config, name)) is not None}
    if given and (turns is not None or config.units == "segments"):
        raise InvalidInput("--window and --hop are of --units windows; leave them out")
    if turns is not None:
        for name, group in zip(config.recordings, turns, strict=True):
            seconds = stated_seconds(name)
            late = [turn for turn in group if seconds is not None and turn.start >= seconds]
            if late:
                raise InvalidInput(
                    f"{name} is {seconds:.3f} s long, and a turn starts at {late[0].start:g} s; correct its times, or "
                    "give the turns of this recording"
                )
    return turns, Windows(**given) if given or config.units == "windows" else None


def _sources(config: TimelineConfig) -> list[Cut]:
    """Return the recordings, or the channels of them that are asked for.

    Raises:
        InvalidInput: There is no such channel.
        UnreadableInput: A recording is missing or broken.
    """
    if config.channel is None:
        return [Cut(name) for name in config.recordings]
    if config.channel == EACH:
        if config.turns is not None:
            raise InvalidInput("--channel each makes speakers of channels, and --turns has its own; leave one out")
        return [Cut(name, channel=k) for name in config.recordings for k in range(count_channels(name))]
    number = CHANNELS.get(config.channel, config.channel)
    if not number.isdecimal():
        raise InvalidInput(f"the channel {config.channel!r} is unknown; use left, right, each, or a number from 0")
    sources = [Cut(name, channel=int(number)) for name in config.recordings]
    for source in sources:
        count_channels(source)
    return sources


def _load_whisper(whisper: str, config: TimelineConfig) -> WhisperPipeline:
    try:
        return WhisperPipeline.from_pretrained(whisper, precision=config.precision, device=config.device)
    except UnreadableInput as error:
        raise UnreadableInput(
            f"units without a text need a transcriber, and it is missing: {error}; give turns with text (--turns), "
            "another transcriber (--whisper-model), or mode audio"
        ) from error


def _score(
    pipeline: EmotionPipeline,
    sources: Sequence[Cut],
    config: TimelineConfig,
    turns: Sequence[Sequence[Turn]] | None,
    windows: Windows | None,
    transcriber: WhisperPipeline | None,
) -> list[TimelineUnit]:
    """Score all units. Return those of a recording together, by start."""
    durations = [stated_seconds(source) for source in sources]
    total = None if None in durations else sum(each or 0 for each in durations)
    units: list[TimelineUnit] = []
    last, place = 0.0, ("", None)
    count = len(config.recordings)
    with progress(f"Scoring {count} recording{'s' * (count > 1)}", total) as advance:
        for unit in pipeline.timeline(sources, turns=turns, windows=windows, transcriber=transcriber):
            if place != (unit["recording"], unit["channel"]):
                last, place = 0.0, (unit["recording"], unit["channel"])
            advance(max(0.0, unit["end"] - last))
            last = max(last, unit["end"])
            if config.channel == EACH:
                unit["speaker"] = f"channel {unit['channel']}"
            units.append(unit)
    order = {name: number for number, name in enumerate(config.recordings)}
    return sorted(units, key=lambda unit: (order[unit["recording"]], unit["start"]))
