"""Turn recordings into units: their samples, speakers and texts, read ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..audio import AudioSource
from ..errors import InvalidInput, SpeechEmotionError
from ..whisper import TranscriptionOptions, WhisperPipeline
from .reading import PartReader
from .units import NO_TEXT, Turn, Unit, Windows


def window_units(recordings: Iterable[AudioSource], windows: Windows) -> Iterator[Unit]:
    """Yield the windows of recordings. The last one of a recording ends with it and may be shorter.

    Raises:
        InvalidInput: A recording holds no samples, or they can't be used.
        UnreadableInput: A recording is missing or broken.
    """
    for source in recordings:
        reader = PartReader(source)
        number = 0
        while not reader.ends_by(number * windows.hop + windows.window):
            start = number * windows.hop
            yield reader.unit(start, start + windows.window)
            number += 1
        start = number * windows.hop
        if reader.seconds > start:
            yield reader.unit(start, reader.seconds)


def turn_units(recordings: Sequence[AudioSource], turns: Sequence[Sequence[Turn]]) -> Iterator[Unit]:
    """Yield the turns of recordings.

    Args:
        recordings: The recordings.
        turns: The turns of each, in the order of their starts.

    Raises:
        InvalidInput: A turn does not lie in its recording, or the samples can't be used.
        UnreadableInput: A recording is missing or broken.
    """
    for source, group in zip(recordings, turns, strict=True):
        reader = PartReader(source)
        for turn in group:
            yield reader.unit(turn.start, turn.end, turn.speaker, turn.text)


def segment_units(
    recordings: Sequence[AudioSource], transcriber: WhisperPipeline, options: TranscriptionOptions
) -> Iterator[Unit]:
    """Yield the segments that Whisper makes of recordings, each with its text.

    Args:
        recordings: The recordings.
        transcriber: The transcriber.
        options: How to transcribe. Timestamps of segments are added.

    Raises:
        InvalidInput: A recording can't be used.
        UnreadableInput: A recording is missing or broken.
    """
    timed = replace(options, timestamps="segment")
    for source, transcript in zip(recordings, transcriber.transcribe_each(recordings, timed), strict=True):
        if isinstance(transcript, SpeechEmotionError):
            raise transcript
        reader = PartReader(source)
        spoken = [each for each in transcript.get("segments", ()) if each["text"].strip()]
        for segment in sorted(spoken, key=lambda segment: segment["start"]):
            start, end = (round(segment[key], 3) for key in ("start", "end"))
            if end > start:
                unit = reader.unit(start, end, text=segment["text"].strip())
                yield unit._replace(language=transcript["language"], no_speech=transcript["no_speech_probability"])


def add_texts(units: Iterable[Unit], transcriber: WhisperPipeline, options: TranscriptionOptions) -> Iterator[Unit]:
    """Transcribe the units that have no text, those of all recordings in common batches.

    Args:
        units: The units.
        transcriber: The transcriber.
        options: How to transcribe.

    Yields:
        The units in order. One in which nothing is said is marked.

    Raises:
        InvalidInput: A unit can't be used.
        UnreadableInput: A recording is broken.
    """
    waiting: deque[Unit] = deque()  # units that were handed to the transcriber, or stand between such units

    def untranscribed() -> Iterator[AudioSource]:
        for unit in units:
            waiting.append(unit)
            if _needs_text(unit):
                assert unit.audio is not None
                yield unit.audio

    for transcript in transcriber.transcribe_each(untranscribed(), options):
        if isinstance(transcript, SpeechEmotionError):
            raise transcript
        while not _needs_text(waiting[0]):
            yield waiting.popleft()
        unit = waiting.popleft()._replace(
            text=transcript["text"] or None,
            language=transcript["language"],
            no_speech=transcript["no_speech_probability"],
        )
        yield unit if unit.text else unit._replace(unscored=NO_TEXT)
    yield from waiting


def require_texts(units: Iterable[Unit], mode: str) -> Iterator[Unit]:
    """Yield units that have their text, where there is no transcriber.

    Raises:
        InvalidInput: A unit has no text.
    """
    for unit in units:
        if _needs_text(unit):
            raise InvalidInput(
                f"{unit.recording} from {unit.start:g} to {unit.end:g} s has no text, and mode {mode!r} reads text; "
                "give turns with text, a transcriber, or mode audio"
            )
        yield unit


def _needs_text(unit: Unit) -> bool:
    return unit.text is None and unit.unscored is None
