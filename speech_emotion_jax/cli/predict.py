"""The verbs for one prediction and for what is installed: predict, demo, info."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, SpeechEmotionError
from ..runtime.console import as_json, say, show
from . import options as shared

if TYPE_CHECKING:
    from ..inference import Prediction


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    predict = verbs.add_parser(
        "predict",
        parents=[shared.CHANNEL, shared.CHECKPOINT_NAME, shared.CHECKPOINT_FILES, shared.JSON, shared.COMMON],
        help="emotion of a recording, a text, or both",
    )
    predict.add_argument(
        "--audio",
        type=shared.disk_place,
        nargs="+",
        metavar="FILE",
        help="recordings or folders of them: wav, flac, ogg, mp3; m4a and others with the extra m4a",
    )
    predict.add_argument("--text", help="the words said in one recording")
    predict.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: the fastest one)")
    predict.add_argument(
        "--whisper-model",
        type=shared.any_place,
        metavar="ID",
        help="transcriber of a recording without text (default: large-v3-turbo)",
    )
    predict.add_argument(
        "--transcripts", type=shared.disk_place, metavar="DIR", help="cache of transcripts, found again by content"
    )
    predict.add_argument("--precision", default="float32", help="float32 (default), equal to PyTorch, or bfloat16")
    predict.set_defaults(run=_predict, compile_cache=True)

    demo = verbs.add_parser(
        "demo",
        parents=[shared.JSON, shared.COMMON],
        help="predict on the toy recordings of this package; needs no network",
    )
    demo.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: the fastest one)")
    demo.set_defaults(run=_demo, compile_cache=True)

    info = verbs.add_parser(
        "info",
        parents=[shared.JSON, shared.COMMON],
        help="devices, versions and caches, or the content of a checkpoint",
    )
    info.add_argument(
        "checkpoint", type=shared.any_place, nargs="?", metavar="FOLDER", help="published or converted folder"
    )
    info.add_argument(
        "--parameters", type=int, metavar="DEPTH", help="count a converted folder's parameters by the first DEPTH names"
    )
    info.set_defaults(run=_info)


def _predict(options: argparse.Namespace) -> None:
    from ..audio import Cut, find_recordings
    from ..checkpoints import recorded_mode_and_language
    from ..inference import predict_emotion, render_prediction, render_prediction_line

    recorded = None
    if options.model_id is not None and None in (options.mode, options.language):
        recorded = recorded_mode_and_language(options.model_id)
    mode, language = recorded or ("text", "es")
    given: list[str] = options.audio or []
    recordings = find_recordings(given)
    several = recordings != given or len(recordings) > 1
    if several and options.text is not None:
        raise InvalidInput(
            "--text is what is said in one recording; leave it out to transcribe all, or give each its text in a "
            "manifest to evaluate"
        )

    def predict(audio: str | None) -> Prediction:
        """Predict from one recording, or from the text alone."""
        return predict_emotion(
            audio if audio is None or options.channel is None else Cut(audio, channel=options.channel),
            options.text,
            options.model_id,
            options.mode or mode,
            options.language or language,
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

    if not several:
        prediction = predict(recordings[0] if recordings else None)
        show(as_json(prediction) if options.json else render_prediction(prediction))
        return
    failures = 0
    for audio in recordings:
        try:
            prediction = predict(audio)
        except SpeechEmotionError as error:
            failures += 1
            say(str(error))
            if options.json:
                show(as_json({"audio": audio, "error": str(error)}))
        else:
            line = render_prediction_line(prediction)
            show(as_json({"audio": audio, **prediction}) if options.json else f"{audio}: {line}")
    if failures == len(recordings):
        raise InvalidInput("no recording could be scored")
    if failures:
        raise shared.PartlyFailed(f"{failures} of {len(recordings)} recordings could not be scored")


def _demo(options: argparse.Namespace) -> None:
    from ..demo import NOTICE, run_demo
    from ..inference import render_prediction

    results = run_demo(options.device)
    if options.json:
        show(json.dumps([result._asdict() for result in results]))
        return
    show(NOTICE)
    for result in results:
        show(f"\n{result.recording}  «{result.text}»  (made to sound like: {result.label})")
        show(render_prediction(result.prediction))


def _info(options: argparse.Namespace) -> None:
    from ..checkpoints import describe_checkpoint, describe_installation, local_path

    if options.checkpoint is None:
        report = describe_installation()
    else:
        report = describe_checkpoint(local_path(options.checkpoint), options.parameters)
    if options.json:
        show(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines or ["none"]):
            show(f"{name if index == 0 else '':{width}}  {line}")
