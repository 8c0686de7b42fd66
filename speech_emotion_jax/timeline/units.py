"""Parts of a timeline: turns that a user gives, units to score, and scored units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

from ..audio import MAX_SECONDS, AudioSource
from ..errors import InvalidInput

UNITS = ("segments", "windows")
TOO_SHORT, SILENCE, NO_TEXT = "too short", "silence", "no text"
Unscored = Literal["too short", "silence", "no text"]


@dataclass(frozen=True)
class Turn:
    """What one speaker says without a break.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        speaker: Name of the speaker, or None.
        text: The words said, or None if they are unknown.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None


class Unit(NamedTuple):
    """A part of a recording that is scored as one.

    Attributes:
        recording: Name of the recording.
        start: Start in seconds.
        end: End in seconds.
        audio: The samples of the part; None if it can't be scored.
        unscored: Why the unit can't be scored; None if it can.
        speaker: Name of the speaker, or None.
        text: The words said, or None if they are unknown.
        channel: Number of the channel, from 0, or None for the mean of all.
        language: Language of the transcript, or None if the text was not transcribed.
        no_speech: No-speech probability of the transcript, or None if the text was not transcribed.
    """

    recording: str
    start: float
    end: float
    audio: AudioSource | None
    unscored: Unscored | None = None
    speaker: str | None = None
    text: str | None = None
    channel: int | None = None
    language: str | None = None
    no_speech: float | None = None


class TimelineUnit(TypedDict):
    """A unit of a timeline and its emotion. The guide explains the fields; schema.json has their types."""

    recording: str
    start: float
    end: float
    speaker: str | None
    channel: int | None
    text: str | None
    language: str | None
    probabilities: dict[str, float] | None
    top_label: str | None
    no_speech_probability: float | None
    truncated: bool
    unscored: Unscored | None


@dataclass(frozen=True)
class Windows:
    """Units of equal length.

    Attributes:
        window: Length in seconds.
        hop: Seconds from one start to the next.

    Raises:
        InvalidInput: A value is out of its range.
    """

    window: float = 10.0
    hop: float = 2.5

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0.1 <= self.window <= MAX_SECONDS:
            raise InvalidInput(f"the window is {self.window:g} s long; it must be from 0.1 to {MAX_SECONDS:g} s")
        if not 0.01 <= self.hop <= self.window:
            raise InvalidInput(f"the hop is {self.hop:g} s; it must be from 0.01 s to the window, {self.window:g} s")


def timeline_unit(unit: Unit, scores: dict[str, float] | None, top_label: str | None, truncated: bool) -> TimelineUnit:
    """Return a unit with its result.

    Args:
        unit: The unit.
        scores: The probability of each label; None if the unit was not scored.
        top_label: The most probable label; None if the unit was not scored.
        truncated: Whether audio or text was too long and its end was left out.
    """
    return TimelineUnit(
        recording=unit.recording,
        start=float(unit.start),
        end=float(unit.end),
        speaker=unit.speaker,
        channel=unit.channel,
        text=unit.text,
        language=unit.language,
        probabilities=scores,
        top_label=top_label,
        no_speech_probability=unit.no_speech,
        truncated=truncated,
        unscored=unit.unscored,
    )
