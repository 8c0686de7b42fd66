"""Transcripts of several recordings as plain text, JSON or subtitles, each with its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..audio import Cut
from ..errors import InvalidInput, SpeechEmotionError
from ..runtime.addresses import disk_path
from ..runtime.atomic import atomic_file
from ..runtime.console import as_json
from .options import TranscriptionOptions
from .subtitles import Cue, render_subtitles, subtitle_lines
from .transcribe import WhisperPipeline
from .transcript import Transcript
from .words import Word

SUBTITLE_FORMATS = ("srt", "vtt")
FORMATS = ("text", "json", *SUBTITLE_FORMATS)
SUFFIXES = {"text": "txt"}  # of the other formats, the format itself


def transcript_paths(recordings: Sequence[str], folder: str | None, format: str) -> list[Path | None]:
    """Return the file for the transcript of each recording. Nothing is written yet.

    Args:
        recordings: paths of the recordings.
        folder: where the transcripts go; None: nowhere, they are printed.
        format: one of FORMATS.

    Returns:
        A path for each recording; None for each without a folder.

    Raises:
        InvalidInput: if the format is unknown, the folder is an address, a recording does not exist, or the
            transcripts of two recordings would get the same file.
    """
    if format not in FORMATS:
        raise InvalidInput(f"the format {format!r} is unknown; use {', '.join(FORMATS)}")
    if folders := [audio for audio in recordings if Path(audio).is_dir()]:
        raise InvalidInput(f"{', '.join(folders)}: that is a folder; name the recordings in it")
    if missing := [audio for audio in recordings if not Path(audio).is_file()]:
        raise InvalidInput(f"{', '.join(missing)}: there is no such file; nothing was transcribed")
    if folder is None:
        if format in SUBTITLE_FORMATS and len(recordings) > 1:
            raise InvalidInput(
                f"{len(recordings)} recordings make {len(recordings)} {format} files; name a folder by --output"
            )
        return [None] * len(recordings)
    folder = disk_path(folder)
    paths = [Path(folder) / f"{Path(audio).stem}.{SUFFIXES.get(format, format)}" for audio in recordings]
    if repeated := [str(path) for path, count in Counter(paths).items() if count > 1]:
        raise InvalidInput(f"several recordings would be written to {', '.join(repeated)}; give them different names")
    existing = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not existing.is_dir():
        raise InvalidInput(f"{existing} is a file; name a folder by --output")
    return list(paths)


def transcribe_files(
    pipeline: WhisperPipeline,
    recordings: Sequence[str],
    paths: Sequence[Path | None],
    format: str,
    options: TranscriptionOptions,
    advance: Callable[[float], None],
    channel: int | None = None,
) -> Iterator[str | SpeechEmotionError]:
    """Transcribe recordings and write each transcript to its path.

    Args:
        pipeline: the transcriber.
        recordings: paths of the recordings.
        paths: a file for each transcript, or None.
        format: one of FORMATS.
        options: how to transcribe.
        advance: is called with the seconds of audio that each batch has transcribed.
        channel: the channel of each recording to transcribe, from 0; None: the mean of all.

    Yields:
        For each recording the rendered transcript, or the error if the recording can't be used.
    """
    sources = recordings if channel is None else [Cut(audio, channel=channel) for audio in recordings]
    results = pipeline.transcribe_each(sources, options, advance)
    for audio, path, result in zip(recordings, paths, results, strict=True):
        if isinstance(result, SpeechEmotionError):
            yield result
            continue
        text = render_transcript(audio, result, format)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(f"{text}\n".encode())
        yield text


def render_transcript(audio: str, transcript: Transcript, format: str) -> str:
    """Render a transcript as plain text, one line of JSON, or subtitles, without a newline at its end."""
    if format == "text":
        return transcript["text"]
    if format == "json":
        return as_json({"audio": audio, **transcript})
    segments = transcript.get("segments", [])
    if any("words" in segment for segment in segments):
        cues = subtitle_lines(Word(**word) for segment in segments for word in segment.get("words", ()))
    else:
        cues = [Cue(segment["start"], segment["end"], segment["text"]) for segment in segments]
    return render_subtitles(format, cues).rstrip("\n")
