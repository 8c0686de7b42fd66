"""The verbs that score a corpus and study the results: evaluate, compare, calibrate."""

from __future__ import annotations

import argparse
from typing import Any

from ..runtime.console import say, show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    evaluate = verbs.add_parser(
        "evaluate",
        parents=[
            shared.CHECKPOINT_NAME,
            shared.CHECKPOINT_FILES,
            shared.AUDIO_ROOT,
            shared.COLUMNS,
            shared.LABEL_MAP,
            shared.HOSTS,
            shared.COMMON,
        ],
        help="predictions, metrics and a report for the clips of a manifest",
    )
    evaluate.add_argument(
        "--manifest",
        type=shared.any_place,
        required=True,
        metavar="FILE",
        help="csv, tsv, jsonl or parquet; one row per clip",
    )
    evaluate.add_argument(
        "--output", type=shared.any_place, required=True, metavar="DIR", help="new folder, or one to resume"
    )
    evaluate.add_argument("--split", help="score the rows of this split only")
    evaluate.add_argument("--limit", type=int, metavar="N", help="score the first N rows only")
    evaluate.add_argument(
        "--whisper-model",
        type=shared.any_place,
        metavar="ID",
        help="transcriber of rows without text (default: none; such rows get an error)",
    )
    evaluate.add_argument(
        "--strict", action="store_true", help="refuse the manifest if a row has no file or no text (default: an error)"
    )
    evaluate.add_argument(
        "--group-by", metavar="COLUMN", help="resample whole groups of clips: the column of speaker or video"
    )
    evaluate.add_argument("--embeddings", action="store_true", help="also write the pooled embeddings")
    evaluate.add_argument(
        "--batch-size",
        type=int,
        help="clips at once on each device (default: 8; 1 for audio on a CPU, where that is faster)",
    )
    evaluate.add_argument("--precision", default="float32", help="float32 (default), equal to PyTorch, or bfloat16")
    evaluate.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: all of the fastest kind)")
    evaluate.add_argument(
        "--save-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time between two saves, the most work that a kill loses (default: 30)",
    )
    evaluate.set_defaults(run=_evaluate, compile_cache=True)

    compare = verbs.add_parser(
        "compare", parents=[shared.BOOTSTRAP, shared.COMMON], help="two runs on the same clips, clip by clip"
    )
    compare.add_argument("run_a", type=shared.any_place, metavar="RUN_A", help="output folder of evaluate")
    compare.add_argument(
        "run_b", type=shared.any_place, metavar="RUN_B", help="output folder of another evaluate on the same clips"
    )
    compare.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder for comparison.json and disagreements.csv"
    )
    compare.set_defaults(run=_compare)

    calibrate = verbs.add_parser(
        "calibrate",
        parents=[shared.BOOTSTRAP, shared.COMMON],
        help="fit a temperature on one split or run and apply it to another",
    )
    calibrate.add_argument("fit_run", type=shared.any_place, metavar="FIT_RUN", help="output folder of evaluate")
    calibrate.add_argument(
        "apply_run", type=shared.any_place, metavar="APPLY_RUN", nargs="?", help="another one (default: FIT_RUN)"
    )
    calibrate.add_argument("--fit-split", metavar="SPLIT", help="fit on the rows of this split only")
    calibrate.add_argument("--apply-split", metavar="SPLIT", help="apply to the rows of this split only")
    calibrate.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder for calibration.json and calibrated.parquet"
    )
    calibrate.set_defaults(run=_calibrate)


def _evaluate(options: argparse.Namespace) -> None:
    from ..evaluation import EvaluateConfig, evaluate

    shared.connect_hosts(options)
    config = EvaluateConfig(
        manifest=options.manifest,
        output=options.output,
        request=shared.checkpoint_request(options),
        audio_root=options.audio_root,
        columns=shared.columns(options),
        label_map=shared.label_map(options),
        split=options.split,
        time_unit=options.time_unit,
        limit=options.limit,
        whisper=options.whisper_model,
        strict=options.strict,
        precision=options.precision,
        batch_size=options.batch_size,
        device=options.device,
        embeddings=options.embeddings,
        group_by=options.group_by,
        save_every=options.save_every,
    )
    try:
        result = evaluate(config)
    except KeyboardInterrupt:
        say("stopped; run the same command again to resume")
        raise
    show(result.text)
    if result.finished:
        show(f"Results in {options.output}: report.html, predictions.parquet, predictions.csv")
    if result.errors:
        raise shared.PartlyFailed(f"{result.errors} of {result.clips} clips could not be scored; see {options.output}")


def _compare(options: argparse.Namespace) -> None:
    from ..evaluation import EvaluationRun, compare, render_comparison, write_comparison

    comparison = compare(
        EvaluationRun.read(options.run_a),
        EvaluationRun.read(options.run_b),
        group_by=options.group_by,
        resamples=options.resamples,
        seed=options.seed,
    )
    if options.output is not None:
        write_comparison(comparison, options.output)
    show(render_comparison(comparison))


def _calibrate(options: argparse.Namespace) -> None:
    from ..evaluation import EvaluationRun, calibrate, render_calibration, write_calibration

    fit_run = EvaluationRun.read(options.fit_run)
    calibration = calibrate(
        fit_run,
        fit_run if options.apply_run is None else EvaluationRun.read(options.apply_run),
        fit_split=options.fit_split,
        apply_split=options.apply_split,
        group_by=options.group_by,
        resamples=options.resamples,
        seed=options.seed,
    )
    if options.output is not None:
        write_calibration(calibration, options.output)
    show(render_calibration(calibration))
