"""The verbs of the command line that are about programs: compiled ahead, exported, timed, planned, compared."""

from __future__ import annotations

import argparse
from typing import Any

from ..registry import LANGUAGES, MODES
from ..runtime.console import Differing, as_json, names, show
from .corpora import requested


def add_performance_verbs(verbs: Any, checkpoint: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the verbs; the parents have the flags of a checkpoint and those of every verb."""
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--mode", help=f"{', '.join(MODES)} (default: a converted folder's own, else text)")
    named.add_argument("--language", help=f"{' or '.join(LANGUAGES)} (default: a converted folder's own, else es)")
    named.add_argument("--model-id", metavar="ID", help="hub id, published folder or converted folder")
    named.add_argument("--model-config", metavar="FILE", help="model.json that names the checkpoints")

    warmup = verbs.add_parser(
        "warmup", parents=[named, checkpoint, common], help="compile ahead what predict and evaluate will run"
    )
    warmup.add_argument("--whisper-model", metavar="ID", help="a transcriber, too (default: none)")
    warmup.add_argument("--seconds", type=float, default=30.0, help="of the longest clip (default: 30)")
    warmup.add_argument("--batch-size", type=int, default=1, help="clips at once on each device (default: 1)")
    warmup.add_argument("--precision", default="float32", help="float32 (default) or bfloat16")
    warmup.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: all of the fastest kind)")
    warmup.set_defaults(verb=_warmup)

    export = verbs.add_parser(
        "export", parents=[named, checkpoint, common], help="programs and parameters that run without this package"
    )
    export.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    export.add_argument(
        "--platforms", type=names, default=("tpu", "cuda", "cpu"), metavar="A,B", help="default: tpu,cuda,cpu; or rocm"
    )
    export.add_argument(
        "--seconds",
        type=_numbers,
        default=(5.0, 10.0, 20.0, 30.0),
        metavar="A,B,...",
        help="lengths of recordings, a program each, 160 at most (default: 5,10,20,30)",
    )
    export.add_argument("--precision", default="float32", help="float32 (default) or bfloat16")
    export.add_argument("--json", action="store_true", help="print sizes and times as JSON")
    export.set_defaults(verb=_export)

    benchmark = verbs.add_parser(
        "benchmark", parents=[common], help="time and memory on this machine, ours alone or beside PyTorch"
    )
    benchmark.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help="encoder, prediction, start, bulk, transcription, training (default: all but transcription)",
    )
    benchmark.add_argument("--against", metavar="WHAT", help="torch: PyTorch takes turns with ours")
    benchmark.add_argument("--output", metavar="DIR", help="add to benchmarks.json, .md and .png there")
    benchmark.add_argument(
        "--precision", type=names, default=("float32",), metavar="A,B", help="float32 (default), bfloat16 or both"
    )
    benchmark.add_argument(
        "--seconds", type=_numbers, default=(10.0, 30.0), metavar="A,B,...", help="lengths of clips (default: 10,30)"
    )
    benchmark.add_argument("--clips", type=int, default=40, metavar="N", help="of bulk (default: 40)")
    benchmark.add_argument("--pairs", type=int, default=5, metavar="N", help="turns of each side (default: 5)")
    benchmark.add_argument(
        "--batch-size", type=int, metavar="N", help="of bulk (default: evaluate's) and transcription (default: 64)"
    )
    benchmark.add_argument("--layers", type=int, metavar="N", help="of a smaller model (default: 24, and 12 for text)")
    benchmark.add_argument(
        "--width", type=int, metavar="N", help="of a smaller model (default: 1024, and 768 for text)"
    )
    benchmark.add_argument(
        "--weights-folder", metavar="DIR", help="where RANDOM checkpoints are kept: 5.6 GB (default: the cache)"
    )
    benchmark.add_argument("--whisper-model", metavar="FOLDER", help="of transcription")
    benchmark.add_argument("--audio", nargs="+", default=(), metavar="FILE", help="of transcription")
    benchmark.add_argument("--language", default="es", help="of transcription (default: es)")
    benchmark.add_argument(
        "--faster-whisper", nargs=2, metavar=("PYTHON", "FOLDER"), help="another environment's, and its model"
    )
    benchmark.add_argument("--json", action="store_true", help="print the report as JSON")
    benchmark.set_defaults(verb=_benchmark)

    plan = verbs.add_parser(
        "plan", parents=[common], help="memory and time on TPUs or GPUs that you don't have: compiled for them, not run"
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
        help="of all chips together (default: 256, or --largest-batch)",
    )
    plan.add_argument("--per-chip", action="store_true", help="batch sizes are those of each chip")
    plan.add_argument("--seconds", type=float, default=15.0, help="of each clip, 0.1 to 160 (default: 15)")
    plan.add_argument("--tokens", type=int, default=64, metavar="N", help="of each text, 1 to 512 (default: 64)")
    plan.add_argument("--precision", default="bfloat16", help="bfloat16 (default) or float32")
    plan.add_argument("--train", action="store_true", help="a training step: AdamW, FSDP over all chips, remat")
    plan.add_argument("--largest-batch", action="store_true", help="look for the largest that fits: 8 programs or so")
    plan.add_argument("--output", metavar="DIR", help="write plan.json and plan.png there")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(verb=_plan)

    parity = verbs.add_parser(
        "parity", parents=[named, checkpoint, common], help="compare with the PyTorch original, stage by stage"
    )
    parity.add_argument("--audio", nargs="+", default=(), metavar="FILE", help="recordings")
    parity.add_argument(
        "--text", nargs="+", default=(), metavar="WORDS", help="what is said: a quoted text each, or one for all"
    )
    parity.add_argument("--reference", metavar="FOLDER", help="what PyTorch runs (default: the checkpoint's source)")
    parity.add_argument("--precision", default="float32", help="of ours: float32 (default) or bfloat16")
    parity.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: the first of the fastest kind)")
    parity.add_argument("--record", metavar="FILE", help="write a golden: what PyTorch made, for --against")
    parity.add_argument("--against", metavar="FILE", help="a golden in place of PyTorch")
    parity.add_argument("--output", metavar="DIR", help="write parity.html, parity.png and parity.json there")
    parity.add_argument("--json", action="store_true", help="print the report as JSON")
    parity.set_defaults(verb=_parity)

    precision = verbs.add_parser(
        "precision",
        parents=[named, checkpoint, common],
        help="what TF32 and bfloat16 make of the numbers, here",
    )
    precision.add_argument("--audio", nargs="+", default=(), metavar="FILE", help="recordings")
    precision.add_argument(
        "--text", nargs="+", default=(), metavar="WORDS", help="what is said: a quoted text each, or one for all"
    )
    precision.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: the first of the fastest kind)")
    precision.add_argument("--output", metavar="DIR", help="write precision.json and precision.png there")
    precision.add_argument("--json", action="store_true", help="print the study as JSON")
    precision.set_defaults(verb=_precision)


def _warmup(options: argparse.Namespace) -> None:
    from ..inference import render_warmup, warm_up

    warmed = warm_up(
        requested(options),
        seconds=options.seconds,
        batch_size=options.batch_size,
        precision=options.precision,
        device=options.device,
        whisper=options.whisper_model,
    )
    show(render_warmup(warmed))


def _export(options: argparse.Namespace) -> None:
    from ..exporting import ExportConfig, export, render_export

    report = export(
        ExportConfig(
            requested(options),
            options.output,
            platforms=options.platforms,
            seconds=options.seconds,
            precision=options.precision,
        )
    )
    show(as_json(report.as_dict()) if options.json else render_export(report))


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
    show(as_json(report) if options.json else render_benchmark(report))


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
    show(as_json(cases) if options.json else render_plan(cases))


def _parity(options: argparse.Namespace) -> None:
    from ..parity import ParityConfig, parity, parity_as_dict, render_parity

    result = parity(
        ParityConfig(
            request=requested(options),
            recordings=tuple(options.audio),
            texts=tuple(options.text),
            reference=options.reference,
            precision=options.precision,
            device=options.device,
            language=options.language or "es",
            record=options.record,
            against=options.against,
            output=options.output,
        )
    )
    _told(options, parity_as_dict(result), render_parity(result), options.record, options.output)
    if not result.passed:
        raise Differing("the two sides differ by more than they may")


def _precision(options: argparse.Namespace) -> None:
    from ..parity import PrecisionsConfig, measure_precisions, precisions_as_dict, render_precisions

    result = measure_precisions(
        PrecisionsConfig(requested(options), tuple(options.audio), tuple(options.text), options.device, options.output)
    )
    _told(options, precisions_as_dict(result), render_precisions(result), options.output)


def _told(options: argparse.Namespace, data: Any, words: str, *written: str | None) -> None:
    """Show a result, and where it was written to."""
    show(as_json(data) if options.json else "\n".join([words, *(f"wrote {place}" for place in written if place)]))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers") from error
