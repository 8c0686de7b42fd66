"""The result of a transcription, as plain dicts. All times are in seconds."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class TranscribedWord(TypedDict):
    """A word as decoded, with its leading space and its punctuation."""

    text: str
    start: float
    end: float


class TranscribedSegment(TypedDict):
    """A segment as decoded, with its leading space. `words` is only there with timestamps="word"."""

    start: float
    end: float
    text: str
    words: NotRequired[list[TranscribedWord]]


class Transcript(TypedDict):
    """The transcript of one recording.

    Attributes:
        text: The whole text, stripped.
        language: Language code. None if none was given and the recording holds no audible sound.
        duration: Duration of the recording.
        no_speech_probability: The lowest probability of its windows. It is near 1 if nothing is said anywhere.
        segments: Segments, only with timestamps.
    """

    text: str
    language: str | None
    duration: float
    no_speech_probability: float
    segments: NotRequired[list[TranscribedSegment]]
