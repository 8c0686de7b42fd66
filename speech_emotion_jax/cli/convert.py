"""The verbs that write a checkpoint in another form: convert, export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..registry import LANGUAGES, MODES
from ..runtime.console import show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    convert = verbs.add_parser(
        "convert",
        parents=[shared.CHECKPOINT_FILES, shared.COMMON],
        help="a published checkpoint to an Orbax folder, and back",
    )
    convert.add_argument("source", type=shared.any_place, metavar="SOURCE", help="hub id or folder")
    convert.add_argument("destination", type=shared.disk_place, metavar="DEST", help="new folder")
    convert.add_argument("--mode", help=f"{', '.join(MODES)}: needed for an emotion checkpoint, not for Whisper")
    convert.add_argument(
        "--language", help=f"{' or '.join(LANGUAGES)}: needed for an emotion checkpoint, not for Whisper"
    )
    convert.add_argument("--to", default="orbax", help="orbax (default) or safetensors")
    convert.set_defaults(run=_convert)

    export = verbs.add_parser(
        "export",
        parents=[shared.CHECKPOINT_NAME, shared.CHECKPOINT_FILES, shared.JSON, shared.COMMON],
        help="programs and parameters that run without this package",
    )
    export.add_argument("--output", type=shared.disk_place, required=True, metavar="FOLDER", help="new folder")
    export.add_argument(
        "--platforms",
        type=shared.parse_names,
        default=("tpu", "cuda", "cpu"),
        metavar="A,B",
        help="some of tpu, cuda, cpu and rocm (default: tpu,cuda,cpu)",
    )
    export.add_argument(
        "--seconds",
        type=shared.parse_numbers,
        default=(5.0, 10.0, 20.0, 30.0),
        metavar="A,B,...",
        help="lengths of recordings to write a program for, up to 160 (default: 5,10,20,30)",
    )
    export.add_argument("--precision", default="float32", help="float32 (default) or bfloat16")
    export.set_defaults(run=_export)


def _convert(options: argparse.Namespace) -> None:
    from ..checkpoints import Request, local_path, open_published
    from ..convert import convert, is_converted, write_safetensors

    source, destination = local_path(options.source), Path(options.destination)
    if options.to == "safetensors":
        if not is_converted(source):
            raise InvalidInput(f"{source} is not a converted folder; only those are written back to safetensors")
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
        if destination.exists():  # checked before a download of gigabytes
            raise InvalidInput(f"{destination} exists already; name another destination or remove it")
        convert(open_published(request), destination)
    else:
        raise InvalidInput(f"unknown target {options.to!r}; choose --to orbax or --to safetensors")
    show(f"wrote {destination}")


def _export(options: argparse.Namespace) -> None:
    from ..exporting import ExportConfig, export, render_export

    report = export(
        ExportConfig(
            shared.checkpoint_request(options),
            options.output,
            platforms=options.platforms,
            seconds=options.seconds,
            precision=options.precision,
        )
    )
    shared.show_result(options, report.as_dict(), render_export(report))
