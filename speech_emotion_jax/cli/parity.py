"""The verbs that compare numbers with a reference: parity, precision, selfcheck."""

from __future__ import annotations

import argparse
from typing import Any

from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    parents = [
        shared.CHECKPOINT_NAME,
        shared.CHECKPOINT_FILES,
        shared.RECORDINGS_AND_TEXTS,
        shared.JSON,
        shared.COMMON,
    ]
    parity = verbs.add_parser("parity", parents=parents, help="compare with the PyTorch original, stage by stage")
    parity.add_argument(
        "--reference",
        type=shared.any_place,
        metavar="FOLDER",
        help="checkpoint that PyTorch runs (default: the source of the converted one)",
    )
    parity.add_argument("--precision", default="float32", help="precision of the JAX side: float32 (default), bfloat16")
    parity.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: the first of the fastest kind)")
    parity.add_argument(
        "--record", type=shared.any_place, metavar="FILE", help="write PyTorch's activations to a file for --against"
    )
    parity.add_argument(
        "--against", type=shared.any_place, metavar="FILE", help="compare with such a file instead of running PyTorch"
    )
    parity.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder for parity.html, parity.png and parity.json"
    )
    parity.set_defaults(run=_parity, compile_cache=True)

    precision = verbs.add_parser(
        "precision", parents=parents, help="measure on this machine how TF32 and bfloat16 change the results"
    )
    precision.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: the first of the fastest kind)")
    precision.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder for precision.json and precision.png"
    )
    precision.set_defaults(run=_precision, compile_cache=True)

    selfcheck = verbs.add_parser(
        "selfcheck",
        parents=[shared.JSON, shared.COMMON],
        help="check the numbers of this machine's device, then measure it",
    )
    selfcheck.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: the first of the fastest kind)")
    selfcheck.add_argument(
        "--output", type=shared.any_place, metavar="DIR", help="folder for selfcheck.html and selfcheck.json"
    )
    selfcheck.add_argument(
        "--minutes", type=float, default=8.0, metavar="N", help="time after which measuring stops (default: 8)"
    )
    selfcheck.add_argument("--short", action="store_true", help="fewer lengths, and one layer in place of 24")
    selfcheck.set_defaults(run=_selfcheck, compile_cache=True)


def _parity(options: argparse.Namespace) -> None:
    from ..parity import ParityConfig, parity, parity_as_dict, render_parity

    result = parity(
        ParityConfig(
            request=shared.checkpoint_request(options),
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
    shared.show_result(options, parity_as_dict(result), render_parity(result), options.record, options.output)
    if not result.passed:
        raise shared.ComparisonFailed("the two sides differ by more than the tolerances")


def _precision(options: argparse.Namespace) -> None:
    from ..parity import PrecisionsConfig, measure_precisions, precisions_as_dict, render_precisions

    result = measure_precisions(
        PrecisionsConfig(
            shared.checkpoint_request(options),
            tuple(options.audio),
            tuple(options.text),
            options.device,
            options.output,
        )
    )
    shared.show_result(options, precisions_as_dict(result), render_precisions(result), options.output)


def _selfcheck(options: argparse.Namespace) -> None:
    from ..selfcheck import SelfcheckConfig, render_selfcheck, selfcheck, selfcheck_as_dict

    report = selfcheck(SelfcheckConfig(options.device, options.output, options.minutes, options.short))
    shared.show_result(options, selfcheck_as_dict(report), render_selfcheck(report), options.output)
    if not report.passed:
        raise shared.ComparisonFailed("a check failed")
