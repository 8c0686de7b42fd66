"""The verbs for one prediction and for what is installed: predict, demo, info."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..registry import LANGUAGES, MODES
from ..runtime.console import as_json, show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    predict = verbs.add_parser(
        "predict",
        parents=[shared.CHECKPOINT_FILES, shared.JSON, shared.COMMON],
        help="emotion of a recording, a text, or both",
    )
    predict.add_argument(
        "--audio", type=shared.disk_place, metavar="FILE", help="recording: wav, flac, ogg, mp3; m4a with the extra m4a"
    )
    predict.add_argument("--text", help="the words said")
    predict.add_argument("--mode", default="text", help=f"{', '.join(MODES)} (default: text)")
    predict.add_argument("--language", default="es", help=f"{' or '.join(LANGUAGES)} (default: es)")
    predict.add_argument(
        "--model-id",
        type=shared.any_place,
        metavar="ID",
        help="hub id, published or converted folder (default: by mode and language)",
    )
    predict.add_argument(
        "--model-config", type=shared.disk_place, metavar="FILE", help="model.json with a checkpoint for each mode"
    )
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
    from ..inference import predict_emotion, render_prediction

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
    show(as_json(prediction) if options.json else render_prediction(prediction))


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
