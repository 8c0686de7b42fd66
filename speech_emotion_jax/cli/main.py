"""The command `speech-emotion-jax`: parses, calls one verb, prints. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Interrupted, InvalidInput, SpeechEmotionError
from ..registry import LANGUAGES, MODES
from ..runtime.console import PROGRAM, Differing, Parser, PartlyFailed, as_json, names, say, show
from .corpora import add_bulk_verbs
from .tools import add_performance_verbs

if TYPE_CHECKING:
    from ..inference import Prediction
    from ..whisper import Transcript

SUBTITLES = ("srt", "vtt")
FORMATS = ("text", "json", *SUBTITLES)
COMPILING = (
    "predict",
    "transcribe",
    "demo",
    "evaluate",
    "train",
    "parity",
    "precision",
)  # the verbs whose programs are kept


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: a comparison failed; 2: the input can't be used; 3: some of it can't, and the rest is done; 130:
    interrupted; 143: ended by SIGTERM, what was done being saved.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, None where the shell closed it
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        with _interrupts_heard():
            _run(arguments)
    except PartlyFailed as error:
        say(str(error))
        return 3
    except Differing as error:
        say(str(error))
        return 1
    except Interrupted as error:
        say(str(error))
        return 128 + signal.SIGTERM
    except SpeechEmotionError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _refuse(f"{error.filename or 'the output'}: {error.strerror}; make room, give access or choose another")
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: list[str] | None) -> None:
    options = _parser().parse_args(arguments)
    with _messages_on_stderr(verbose=options.verbose):
        if options.name in COMPILING:
            from ..runtime.compile_cache import keep_programs

            keep_programs()
        options.verb(options)
    sys.stdout.flush()


def _predict(options: argparse.Namespace) -> None:
    from ..inference import predict_emotion

    prediction = predict_emotion(
        options.audio,
        options.text,
        options.model_id,
        options.mode,
        options.language,
        options.device,
        options.model_config,
        text_encoder_id=options.text_encoder,
        whisper_id=options.whisper_model,
        revision=options.revision,
        precision=options.precision,
        weights=options.weights,
        labels=options.labels,
        transcripts=options.transcripts,
    )
    show(as_json(prediction) if options.json else chart(prediction))


def _transcribe(options: argparse.Namespace) -> None:
    from ..audio import stated_seconds
    from ..registry import PUBLISHED
    from ..runtime.progress import progress
    from ..whisper import FALLBACK, TranscriptionOptions, WhisperPipeline

    if options.timestamps is not None and options.format == "text":
        raise InvalidInput("plain text has no place for --timestamps; add --format json, srt or vtt")
    targets = _targets(options.audio, options.output, options.format)
    timestamps = options.timestamps or ("segment" if options.format in SUBTITLES else None)
    settings = TranscriptionOptions(
        language=options.language,
        task=options.task,
        timestamps=timestamps,
        beams=options.beams,
        temperatures=FALLBACK if options.fallback else (0.0,),
        sequential=options.sequential,
        condition_on_previous=options.condition_on_previous,
        batch_size=options.batch_size,
    )
    pipeline = WhisperPipeline.from_pretrained(
        options.model_id or PUBLISHED.whisper_id("es"),
        precision=options.precision,
        device=options.device,
        revision=options.revision,
    )
    if options.output is not None:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    stated = [stated_seconds(audio) for audio in options.audio]
    seconds = None if None in stated else round(sum(each or 0 for each in stated))
    failed = 0
    held: list[str] = []  # on a terminal results would be written into the bar
    give = held.append if sys.stdout.isatty() else show
    with progress(f"Transcribing {len(targets)} recording{'s' * (len(targets) > 1)}", seconds) as advance:
        results = pipeline.transcribe_each(options.audio, settings, advance)
        for audio, target, result in zip(options.audio, targets, results, strict=True):
            if isinstance(result, SpeechEmotionError):
                failed += 1
                say(str(result))
                if target is None and options.format == "json":
                    give(as_json({"audio": audio, "error": str(result)}))
            elif target is None:
                content = _rendered(audio, result, options.format)
                give(f"{audio}: {content}" if options.format == "text" and len(targets) > 1 else content)
            else:
                partial = target.with_name(f".{target.name}.partial")
                partial.write_text(_rendered(audio, result, options.format) + "\n", encoding="utf-8")
                partial.replace(target)
    for content in held:
        show(content)
    if options.output is not None and failed < len(targets):
        show(f"wrote {len(targets) - failed} of {len(targets)} transcripts to {options.output}")
    if failed == len(targets):
        raise InvalidInput("no recording could be transcribed")
    if failed:
        raise PartlyFailed(f"{failed} of {len(targets)} recordings could not be transcribed")


def _targets(recordings: list[str], folder: str | None, format: str) -> list[Path | None]:
    """The file for each recording's transcript, None for stdout. What can be known to be wrong is said here."""
    if format not in FORMATS:
        raise InvalidInput(f"the format {format!r} is unknown; use {', '.join(FORMATS)}")
    if folders := [audio for audio in recordings if Path(audio).is_dir()]:
        raise InvalidInput(f"{', '.join(folders)}: that is a folder; name the recordings in it")
    if missing := [audio for audio in recordings if not Path(audio).is_file()]:
        raise InvalidInput(f"{', '.join(missing)}: there is no such file; nothing was transcribed")
    if folder is None:
        if format in SUBTITLES and len(recordings) > 1:
            raise InvalidInput(
                f"{len(recordings)} recordings make {len(recordings)} {format} files; name a folder by --output"
            )
        return [None] * len(recordings)
    endings = {"text": "txt"}
    targets = [Path(folder) / f"{Path(audio).stem}.{endings.get(format, format)}" for audio in recordings]
    if twice := [str(target) for target, count in Counter(targets).items() if count > 1]:
        raise InvalidInput(f"several recordings would be written to {', '.join(twice)}; give them names of their own")
    nearest = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not nearest.is_dir():
        raise InvalidInput(f"{nearest} is a file; name a folder by --output")
    return list(targets)


def _rendered(audio: str, transcript: Transcript, format: str) -> str:
    from ..whisper import Cue, Word, render_subtitles, subtitle_lines

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


def _convert(options: argparse.Namespace) -> None:
    from ..checkpoints import Request, open_published
    from ..convert import convert, is_converted, write_safetensors

    source, destination = Path(options.source), Path(options.destination)
    if options.to == "safetensors":
        if not is_converted(source):
            raise InvalidInput(f"{source} is no converted folder, and only those are written back to safetensors")
        write_safetensors(source, destination)
    elif options.to == "orbax":
        if is_converted(source):
            raise InvalidInput(
                f"{source} is converted already; use it as it is, or write it back with --to safetensors"
            )
        request = Request(
            options.source,
            mode=options.mode,
            language=options.language,
            text_encoder=options.text_encoder,
            revision=options.revision,
            weights=options.weights,
            labels=options.labels,
        )
        if destination.exists():  # said here too, before a download
            raise InvalidInput(f"{destination} exists already; name another destination or remove it")
        convert(open_published(request), destination)
    else:
        raise InvalidInput(f"unknown target {options.to!r}; choose --to orbax or --to safetensors")
    show(f"wrote {destination}")


def _info(options: argparse.Namespace) -> None:
    from ..checkpoints import describe_checkpoint, describe_installation

    if options.checkpoint is None:
        report = describe_installation()
    else:
        report = describe_checkpoint(Path(options.checkpoint), options.parameters)
    if options.json:
        show(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        subtitle_lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(subtitle_lines or ["none"]):
            show(f"{name if index == 0 else '':{width}}  {line}")


def _demo(options: argparse.Namespace) -> None:
    from ..demo import NOTICE, run_demo

    results = run_demo(options.device)
    if options.json:
        show(json.dumps([result._asdict() for result in results]))
        return
    show(NOTICE)
    for result in results:
        show(f"\n{result.recording}  «{result.text}»  (made to sound like: {result.label})")
        show(chart(result.prediction))


def chart(prediction: Prediction, width: int = 40) -> str:
    """The probabilities as bars, the top one first."""
    scores = sorted(prediction["scores"].items(), key=lambda item: -item[1])
    name_width = max(len(label) for label, _ in scores)
    subtitle_lines = [
        f"{label:>{name_width}} {score:6.1%} {'█' * round(score * width)}".rstrip() for label, score in scores
    ]
    if "text" in prediction:
        subtitle_lines.insert(0, f"«{prediction['text']}»")
    if prediction.get("truncated"):
        subtitle_lines.append("(cut: only the first 160 s of audio and 512 tokens of text are scored)")
    return "\n".join(subtitle_lines)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Emotion of Spanish and English speech and text, in JAX.")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="name")

    common = Parser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="log what is done, each compilation included")

    checkpoint = Parser(add_help=False)
    checkpoint.add_argument(
        "--text-encoder", metavar="ID", help="frozen text encoder of the fusion modes (hub id or folder)"
    )
    checkpoint.add_argument("--revision", help="branch, tag or commit of a hub id")
    checkpoint.add_argument("--weights", metavar="KIND", help="safetensors or bin, where a folder has both")
    checkpoint.add_argument(
        "--labels", type=names, metavar="A,B,...", help="names of the outputs, in place of config.json's"
    )

    predict = verbs.add_parser("predict", parents=[checkpoint, common], help="emotion of a recording, a text, or both")
    predict.add_argument("--audio", metavar="FILE", help="recording: wav, flac, ogg, mp3; m4a with the extra m4a")
    predict.add_argument("--text", help="the words that are said")
    predict.add_argument("--mode", default="text", help=f"{', '.join(MODES)} (default: text)")
    predict.add_argument("--language", default="es", help=f"{' or '.join(LANGUAGES)} (default: es)")
    predict.add_argument(
        "--model-id", metavar="ID", help="hub id, published folder or converted folder (default: by mode)"
    )
    predict.add_argument("--model-config", metavar="FILE", help="model.json that names the checkpoints")
    predict.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: the fastest there is)")
    predict.add_argument(
        "--whisper-model", metavar="ID", help="transcriber of recordings without text (default: turbo)"
    )
    predict.add_argument("--transcripts", metavar="DIR", help="keep transcripts there, to be found again by content")
    predict.add_argument("--precision", default="float32", help="float32, equal to PyTorch, or bfloat16, faster")
    predict.add_argument("--json", action="store_true", help="print the result as JSON")
    predict.set_defaults(verb=_predict)

    transcribe = verbs.add_parser("transcribe", parents=[common], help="what is said in recordings")
    transcribe.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings of any length")
    transcribe.add_argument("--language", help="code or name (default: recognised, once a recording)")
    transcribe.add_argument("--task", default="transcribe", help="transcribe (default), or translate into English")
    transcribe.add_argument("--timestamps", metavar="KIND", help="segment or word")
    transcribe.add_argument("--model-id", metavar="ID", help="Whisper: hub id or folder (default: large-v3-turbo)")
    transcribe.add_argument("--format", default="text", help=f"{', '.join(FORMATS)} (default: text)")
    transcribe.add_argument("--output", metavar="DIR", help="write a file for each recording there")
    transcribe.add_argument("--beams", type=int, default=1, help="5 is what transformers' pipeline uses (default: 1)")
    transcribe.add_argument(
        "--fallback", action="store_true", help="try again, at rising temperatures, where text repeats or is improbable"
    )
    transcribe.add_argument(
        "--sequential", action="store_true", help="window after window in place of overlapping windows at once"
    )
    transcribe.add_argument(
        "--condition-on-previous", action="store_true", help="with --sequential: prompt with the text before"
    )
    transcribe.add_argument("--batch-size", type=int, default=16, help="windows of 30 s at once (default: 16)")
    transcribe.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: all of the fastest kind)")
    transcribe.add_argument("--precision", default="float32", help="float32, equal to PyTorch, or bfloat16, faster")
    transcribe.add_argument("--revision", help="branch, tag or commit of a hub id")
    transcribe.set_defaults(verb=_transcribe)

    add_bulk_verbs(verbs, checkpoint, common)
    add_performance_verbs(verbs, checkpoint, common)

    convert = verbs.add_parser(
        "convert", parents=[checkpoint, common], help="published checkpoint to Orbax folder, and back"
    )
    convert.add_argument("source", metavar="SOURCE", help="hub id or folder")
    convert.add_argument("destination", metavar="DEST", help="folder to make")
    convert.add_argument("--mode", help=f"{', '.join(MODES)}; needed for an emotion checkpoint, Whisper has none")
    convert.add_argument("--language", help=f"{' or '.join(LANGUAGES)}; likewise")
    convert.add_argument("--to", default="orbax", help="orbax (default) or safetensors")
    convert.set_defaults(verb=_convert)

    info = verbs.add_parser("info", parents=[common], help="devices, versions and caches, or what a checkpoint holds")
    info.add_argument("checkpoint", nargs="?", metavar="FOLDER", help="published or converted folder")
    info.add_argument(
        "--parameters", type=int, metavar="DEPTH", help="a converted folder's, all below so many names together"
    )
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(verb=_info)

    demo = verbs.add_parser(
        "demo", parents=[common], help="predict on the toy recordings that come along; needs no network"
    )
    demo.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu")
    demo.add_argument("--json", action="store_true", help="print as JSON")
    demo.set_defaults(verb=_demo)
    return parser


@contextmanager
def _messages_on_stderr(*, verbose: bool) -> Iterator[None]:
    """Logs and warnings as plain lines on stderr while a verb runs; stdout is for results."""
    logger = logging.getLogger("speech_emotion_jax")
    level, handler = logger.level, logging.StreamHandler(sys.stderr)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # absl, which Orbax brings, would print each line again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: say(f"note: {message}")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """Ctrl-C is heard wherever it falls.

    What it raises can be dropped: by Python in a callback, as JAX has one of the garbage collector, or by a library. An
    interrupt that nobody is unwinding half a second later is raised again. The watch ends while it is still being
    unwound: who catches it outside is not interrupted once more.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it is not in the background of a shell
    if not ours or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        raise KeyboardInterrupt

    def look(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:
            raise KeyboardInterrupt

    def report(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            reported(dropped)

    reported, sys.unraisablehook = sys.unraisablehook, report
    alarm = signal.signal(signal.SIGALRM, look)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        finally:  # also where a last look has raised in its place
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # before the timer is stopped, as a look sets it again
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, alarm)
            sys.unraisablehook = reported


def _refuse(sentence: str) -> int:
    say(sentence)
    return 2


if __name__ == "__main__":
    sys.exit(main())
