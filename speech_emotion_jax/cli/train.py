"""The verb train."""

from __future__ import annotations

import argparse
from typing import Any

from ..runtime.console import as_json, say, show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verb to argparse's subparsers."""
    train = verbs.add_parser(
        "train",
        parents=[shared.AUDIO_ROOT, shared.COLUMNS, shared.LABEL_MAP, shared.HOSTS, shared.COMMON],
        help="fine-tune a checkpoint by a recipe on the clips of a manifest",
    )
    train.add_argument(
        "recipe",
        type=shared.disk_place,
        metavar="RECIPE",
        help="name of a recipe in this package (es-concat), or a TOML file",
    )
    train.add_argument(
        "--manifest",
        type=shared.any_place,
        required=True,
        metavar="FILE",
        help="csv, tsv, jsonl or parquet; one row per clip",
    )
    train.add_argument(
        "--output", type=shared.disk_place, required=True, metavar="DIR", help="new folder, or one to resume"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.FIELD=VALUE",
        help="replace a value of the recipe; may be repeated",
    )
    train.add_argument("--init", help="pretrained or scratch; replaces the recipe's start.init")
    train.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's training.seed")
    train.add_argument("--group-by", metavar="COLUMN", help="speaker or video; replaces the recipe's data.group_by")
    train.add_argument(
        "--folds",
        type=_parse_folds,
        metavar="N|groups",
        help="cross-validate: train one model per fold, N folds or one per group; the split column is ignored",
    )
    train.set_defaults(run=_train, compile_cache=True)


def _parse_folds(value: str) -> int | str:
    if value != "groups" and not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is neither a number nor groups")
    return value if value == "groups" else int(value)


def _train(options: argparse.Namespace) -> None:
    from ..training import TrainConfig, cross_validate, find_recipe, read_recipe, train

    overrides = list(options.set)
    if options.init is not None:
        overrides.append(f"start.init={options.init}")
    if options.seed is not None:
        overrides.append(f"training.seed={options.seed}")
    if options.group_by is not None:
        overrides.append(f"data.group_by={as_json(options.group_by)}")
    recipe = read_recipe(find_recipe(options.recipe), overrides)
    shared.connect_hosts(options)
    config = TrainConfig(
        recipe,
        manifest=options.manifest,
        output=options.output,
        audio_root=options.audio_root,
        columns=shared.columns(options),
        label_map=shared.label_map(options),
        time_unit=options.time_unit,
    )
    try:
        if options.folds is not None:
            result = cross_validate(config, None if options.folds == "groups" else options.folds)
        else:
            result = train(config)
    except KeyboardInterrupt:
        say("stopped; run the same command again to resume from the last saved state")
        raise
    show(result.text)
    if result.finished and options.folds is not None:
        show(f"Results in {options.output}: folds.json, predictions.parquet, fold-1/, ...")
    elif result.finished:
        show(f"Results in {options.output}: best, best-published, metrics.json, evaluation/report.html, curves.png")
