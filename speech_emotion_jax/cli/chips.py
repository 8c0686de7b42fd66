"""The verbs about time and memory on devices: warmup, plan, benchmark."""

from __future__ import annotations

import argparse
from typing import Any

from ..registry import LANGUAGES, MODES
from ..runtime.console import show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    warmup = verbs.add_parser(
        "warmup",
        parents=[shared.CHECKPOINT_NAME, shared.CHECKPOINT_FILES, shared.COMMON],
        help="compile in advance the programs of predict and evaluate",
    )
    warmup.add_argument(
        "--whisper-model", type=shared.any_place, metavar="ID", help="also those of this transcriber (default: none)"
    )
    warmup.add_argument("--seconds", type=float, default=30.0, help="length of the longest clip (default: 30)")
    warmup.add_argument("--batch-size", type=int, default=1, help="clips at once on each device (default: 1)")
    warmup.add_argument("--precision", default="float32", help="float32 (default) or bfloat16")
    warmup.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: all of the fastest kind)")
    warmup.set_defaults(run=_warmup)

    plan = verbs.add_parser(
        "plan",
        parents=[shared.JSON, shared.COMMON],
        help="estimate memory and time on TPUs or GPUs that are not there, from programs compiled for them",
    )
    plan.add_argument(
        "--topology", nargs="+", required=True, metavar="NAME", help="v5e:2x4, v4:2x2x1, v5p:2x2x1, v6e:2x4, h100"
    )
    plan.add_argument("--mode", default="concat", help=f"{', '.join(MODES)} (default: concat)")
    plan.add_argument("--language", default="es", help=f"{' or '.join(LANGUAGES)} (default: es)")
    plan.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        metavar="N",
        help="batch sizes of all chips together (default: 256, or none with --largest-batch)",
    )
    plan.add_argument("--per-chip", action="store_true", help="--batch-size counts for each chip")
    plan.add_argument("--seconds", type=float, default=15.0, help="length of a clip, 0.1 to 160 (default: 15)")
    plan.add_argument("--tokens", type=int, default=64, metavar="N", help="length of a text, 1 to 512 (default: 64)")
    plan.add_argument("--precision", default="bfloat16", help="bfloat16 (default) or float32")
    plan.add_argument(
        "--train", action="store_true", help="plan a training step: AdamW, FSDP over all chips, rematerialization"
    )
    plan.add_argument(
        "--largest-batch", action="store_true", help="search the largest batch that fits; compiles about 8 programs"
    )
    plan.add_argument("--output", type=shared.any_place, metavar="DIR", help="folder for plan.json and plan.png")
    plan.set_defaults(run=_plan)

    benchmark = verbs.add_parser(
        "benchmark",
        parents=[shared.JSON, shared.COMMON],
        help="measure time and memory on this machine, alone or against PyTorch",
    )
    benchmark.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help="encoder, prediction, start, bulk, transcription, training (default: all but transcription)",
    )
    benchmark.add_argument("--against", metavar="WHAT", help="torch: measure PyTorch, too, in alternating turns")
    benchmark.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder whose benchmarks.json, .md and .png are extended"
    )
    benchmark.add_argument(
        "--precision",
        type=shared.parse_names,
        default=("float32",),
        metavar="A,B",
        help="float32 (default), bfloat16 or both",
    )
    benchmark.add_argument(
        "--seconds",
        type=shared.parse_numbers,
        default=(10.0, 30.0),
        metavar="A,B,...",
        help="lengths of the clips (default: 10,30)",
    )
    benchmark.add_argument("--clips", type=int, default=40, metavar="N", help="clips of the task bulk (default: 40)")
    benchmark.add_argument("--pairs", type=int, default=5, metavar="N", help="turns of each side (default: 5)")
    benchmark.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="batch size of bulk (default: as in evaluate) and of transcription (default: 64)",
    )
    benchmark.add_argument(
        "--layers", type=int, metavar="N", help="layers of a smaller model (default: 24, and 12 for text)"
    )
    benchmark.add_argument(
        "--width", type=int, metavar="N", help="width of a smaller model (default: 1024, and 768 for text)"
    )
    benchmark.add_argument(
        "--weights-folder",
        type=shared.disk_place,
        metavar="DIR",
        help="folder for 5.6 GB of RANDOM checkpoints (default: in the cache)",
    )
    benchmark.add_argument(
        "--whisper-model", type=shared.disk_place, metavar="FOLDER", help="model of the task transcription"
    )
    benchmark.add_argument(
        "--audio",
        type=shared.disk_place,
        nargs="+",
        default=(),
        metavar="FILE",
        help="recordings of the task transcription",
    )
    benchmark.add_argument("--language", default="es", help="language of the task transcription (default: es)")
    benchmark.add_argument(
        "--faster-whisper",
        type=shared.disk_place,
        nargs=2,
        metavar=("PYTHON", "FOLDER"),
        help="also measure faster-whisper: the Python of its environment, and its model",
    )
    benchmark.set_defaults(run=_benchmark)


def _warmup(options: argparse.Namespace) -> None:
    from ..inference import render_warmup, warm_up

    result = warm_up(
        shared.checkpoint_request(options),
        seconds=options.seconds,
        batch_size=options.batch_size,
        precision=options.precision,
        device=options.device,
        whisper=options.whisper_model,
    )
    show(render_warmup(result))


def _plan(options: argparse.Namespace) -> None:
    from ..planning import PlanConfig, plan, render_plan

    cases = plan(
        PlanConfig(
            topologies=tuple(options.topology),
            mode=options.mode,
            language=options.language,
            batch_sizes=tuple(options.batch_size or ([] if options.largest_batch else [256])),
            per_chip=options.per_chip,
            seconds=options.seconds,
            tokens=options.tokens,
            precision=options.precision,
            train=options.train,
            largest=options.largest_batch,
            output=options.output,
        )
    )
    shared.show_result(options, cases, render_plan(cases))


def _benchmark(options: argparse.Namespace) -> None:
    from ..benchmarking import DEFAULT_TASKS, BenchmarkConfig, benchmark, render_benchmark

    report = benchmark(
        BenchmarkConfig(
            tasks=tuple(options.tasks) or DEFAULT_TASKS,
            against=options.against,
            output=options.output,
            precisions=options.precision,
            seconds=options.seconds,
            clips=options.clips,
            pairs=options.pairs,
            batch=options.batch_size,
            layers=options.layers,
            width=options.width,
            weights=options.weights_folder,
            whisper=options.whisper_model,
            recordings=tuple(options.audio),
            language=options.language,
            faster_whisper=None if options.faster_whisper is None else tuple(options.faster_whisper),
        )
    )
    shared.show_result(options, report, render_benchmark(report))
