"""The verb timeline."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InvalidInput
from ..runtime.console import as_json, say, show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verb to argparse's subparsers."""
    timeline = verbs.add_parser(
        "timeline",
        parents=[shared.CHECKPOINT_NAME, shared.CHECKPOINT_FILES, shared.JSON, shared.COMMON],
        help="the emotion of each part of conversations, with its speaker and text",
    )
    timeline.add_argument(
        "audio", type=shared.disk_place, nargs="+", metavar="RECORDING", help="recordings of any length"
    )
    timeline.add_argument(
        "--units", help="segments of Whisper (default if the mode reads text) or windows (default if it does not)"
    )
    timeline.add_argument(
        "--turns",
        type=shared.disk_place,
        nargs="+",
        metavar="FILE",
        help="score these turns: .rttm, .csv, .json, .srt or .vtt",
    )
    timeline.add_argument("--window", type=float, metavar="SECONDS", help="length of a window (default: 10)")
    timeline.add_argument("--hop", type=float, metavar="SECONDS", help="from one window to the next (default: 2.5)")
    timeline.add_argument(
        "--channel", metavar="N", help="left, right, a number from 0, or each: a speaker a channel (default: the mean)"
    )
    timeline.add_argument(
        "--smooth", type=float, metavar="SECONDS", help="smooth each speaker's probabilities with this time constant"
    )
    timeline.add_argument(
        "--whisper-model",
        type=shared.any_place,
        metavar="ID",
        help="transcriber, where texts are missing (default: large-v3-turbo)",
    )
    timeline.add_argument(
        "--output",
        type=shared.disk_place,
        nargs="+",
        default=(),
        metavar="FILE",
        help="files to write; the suffix tells the format: .json, .csv, .parquet, .srt, .vtt, .rttm or .html",
    )
    timeline.add_argument("--device", help="cpu, gpu, cuda, cuda:1, tpu (default: the fastest one)")
    timeline.add_argument("--precision", default="float32", help="float32 (default), equal to PyTorch, or bfloat16")
    timeline.add_argument("--batch-size", type=int, metavar="N", help="units at once (default: 8; on a CPU 1)")
    timeline.set_defaults(run=_timeline, compile_cache=True)


def _timeline(options: argparse.Namespace) -> None:
    from ..inference import TimelineConfig, make_timeline
    from ..timeline import as_document, check_outputs, describe_unit, write_timeline

    check_outputs(options.output, options.audio)
    if options.turns is not None and options.units is not None:
        raise InvalidInput("--turns are the units; leave --units out")
    timeline = make_timeline(
        TimelineConfig(
            recordings=tuple(options.audio),
            request=shared.checkpoint_request(options),
            units=options.units,
            turns=None if options.turns is None else tuple(options.turns),
            window=options.window,
            hop=options.hop,
            channel=options.channel,
            smooth=options.smooth,
            whisper=options.whisper_model,
            precision=options.precision,
            device=options.device,
            batch_size=options.batch_size,
        )
    )
    for path in options.output:
        write_timeline(timeline, path)
    if timeline.notice is not None:
        say(f"note: this model is {timeline.notice}")
    for name in timeline.empty:
        say(f"{name}: nobody speaks in it; its timeline is empty")
    if options.json:
        show(as_json(as_document(timeline)))
    elif options.output:
        show(f"wrote {', '.join(options.output)}")
    else:
        several = len(timeline.recordings) > 1
        for unit in timeline.units:
            place = f"{unit['start']:9.2f} {unit['end']:9.2f}  {describe_unit(unit)}"
            show(f"{unit['recording']} {place}" if several else place)
