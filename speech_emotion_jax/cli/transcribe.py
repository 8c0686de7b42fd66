"""The verb transcribe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, SpeechEmotionError
from ..runtime.console import as_json, say, show
from . import options as shared

if TYPE_CHECKING:
    from ..whisper import TranscriptionOptions, WhisperPipeline


def add_verbs(verbs: Any) -> None:
    """Add the verb to argparse's subparsers."""
    transcribe = verbs.add_parser(
        "transcribe",
        parents=[shared.CHANNEL, shared.AUDIO_ROOT, shared.COLUMNS, shared.COMMON],
        help="the words said in recordings, or in those of a manifest",
    )
    transcribe.add_argument(
        "audio", type=shared.disk_place, nargs="*", metavar="AUDIO", help="recordings of any length"
    )
    transcribe.add_argument(
        "--manifest",
        type=shared.any_place,
        metavar="FILE",
        help="transcribe its clips that have no text; --output is the new manifest (.csv)",
    )
    transcribe.add_argument("--language", help="code or name (default: detected in each recording)")
    transcribe.add_argument("--task", default="transcribe", help="transcribe (default), or translate into English")
    transcribe.add_argument("--timestamps", metavar="KIND", help="segment or word")
    transcribe.add_argument(
        "--whisper-model",
        "--model-id",
        type=shared.any_place,
        metavar="ID",
        help="Whisper: hub id or folder (default: large-v3-turbo)",
    )
    transcribe.add_argument("--format", default="text", help="text (default), json, srt or vtt")
    transcribe.add_argument(
        "--output", type=shared.disk_place, metavar="DIR", help="folder for one file a recording, or the new manifest"
    )
    transcribe.add_argument(
        "--beams", type=int, default=1, help="width of the beam search; 1 is greedy (default: 1; transformers: 5)"
    )
    transcribe.add_argument(
        "--fallback", action="store_true", help="decode again at higher temperatures if text repeats or is improbable"
    )
    transcribe.add_argument(
        "--sequential", action="store_true", help="one window after the other, instead of overlapping windows at once"
    )
    transcribe.add_argument(
        "--condition-on-previous", action="store_true", help="with --sequential: prompt with the previous text"
    )
    transcribe.add_argument("--batch-size", type=int, default=16, help="windows of 30 s at once (default: 16)")
    transcribe.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: all of the fastest kind)")
    transcribe.add_argument("--precision", default="float32", help="float32 (default), equal to PyTorch, or bfloat16")
    transcribe.add_argument("--revision", help="branch, tag or commit of a hub id")
    transcribe.set_defaults(run=_transcribe, compile_cache=True)


def _transcribe(options: argparse.Namespace) -> None:
    from ..audio import stated_seconds
    from ..registry import PUBLISHED
    from ..runtime.progress import progress
    from ..whisper import (
        FALLBACK,
        SUBTITLE_FORMATS,
        TranscriptionOptions,
        WhisperPipeline,
        check_language_name,
        transcribe_files,
        transcript_paths,
    )

    if options.manifest is not None:
        if options.channel is not None:
            raise InvalidInput("--manifest takes channels from its column channel; leave out --channel")
        if options.audio or options.output is None or options.format != "text" or options.timestamps is not None:
            raise InvalidInput("--manifest takes --output NEW.csv, and no recordings, --format or --timestamps")
    elif not options.audio:
        raise InvalidInput("nothing to transcribe; name recordings (AUDIO), or a manifest by --manifest")
    if options.language is not None:
        check_language_name(options.language)
    if options.timestamps is not None and options.format == "text":
        raise InvalidInput("plain text has no place for --timestamps; add --format json, srt or vtt")
    paths = [] if options.manifest else transcript_paths(options.audio, options.output, options.format)
    settings = TranscriptionOptions(
        language=options.language,
        task=options.task,
        timestamps=options.timestamps or ("segment" if options.format in SUBTITLE_FORMATS else None),
        beams=options.beams,
        temperatures=FALLBACK if options.fallback else (0.0,),
        sequential=options.sequential,
        condition_on_previous=options.condition_on_previous,
        batch_size=options.batch_size,
    )

    def load() -> WhisperPipeline:
        return WhisperPipeline.from_pretrained(
            options.whisper_model or PUBLISHED.whisper_id("es"),
            precision=options.precision,
            device=options.device,
            revision=options.revision,
        )

    if options.manifest is not None:
        _transcribe_manifest(options, load, settings)
        return
    pipeline = load()
    durations = [stated_seconds(audio) for audio in options.audio]
    seconds = None if None in durations else round(sum(duration or 0 for duration in durations))
    count = len(options.audio)
    failures = 0
    delayed: list[str] = []  # on a terminal, output between two updates of the bar would garble it
    output = delayed.append if sys.stdout.isatty() else show
    with progress(f"Transcribing {count} recording{'s' * (count > 1)}", seconds) as advance:
        results = transcribe_files(pipeline, options.audio, paths, options.format, settings, advance, options.channel)
        for audio, path, result in zip(options.audio, paths, results, strict=True):
            if isinstance(result, SpeechEmotionError):
                failures += 1
                say(str(result))
                if path is None and options.format == "json":
                    output(as_json({"audio": audio, "error": str(result)}))
            elif path is None:
                output(f"{audio}: {result}" if options.format == "text" and count > 1 else result)
    for text in delayed:
        show(text)
    if options.output is not None and failures < count:
        show(f"wrote {count - failures} of {count} transcripts to {options.output}")
    if failures == count:
        raise InvalidInput("no recording could be transcribed")
    if failures:
        raise shared.PartlyFailed(f"{failures} of {count} recordings could not be transcribed")


def _transcribe_manifest(
    options: argparse.Namespace, load: Callable[[], WhisperPipeline], settings: TranscriptionOptions
) -> None:
    from ..evaluation import transcribe_manifest

    result = transcribe_manifest(
        options.manifest,
        options.output,
        load,
        settings,
        audio_root=options.audio_root,
        columns=shared.columns(options),
        time_unit=options.time_unit,
    )
    for message in result.failures:
        say(message)
    show(
        f"wrote {options.output}: {result.clips:,} clips, {result.transcribed:,} of them transcribed; "
        f"use it with --audio-root {result.audio_root}"
    )
    if result.failures:
        raise shared.PartlyFailed(f"{len(result.failures)} clips could not be transcribed; their texts are empty")
