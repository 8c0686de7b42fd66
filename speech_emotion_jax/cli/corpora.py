"""The verbs of the command line that work on whole corpora: manifests, bulk runs, and what is made of their results."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from ..registry import LANGUAGES, MODES
from ..runtime.console import PartlyFailed, as_json, say, show

if TYPE_CHECKING:
    from ..checkpoints import Request


def add_bulk_verbs(verbs: Any, checkpoint: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the verbs; the parents have the flags of a checkpoint and those of every verb."""
    table = argparse.ArgumentParser(add_help=False)
    table.add_argument("--columns", metavar="FIELD=NAME,...", help="the manifest's own names: label=emotion,...")
    labels = argparse.ArgumentParser(add_help=False)
    labels.add_argument("--label-map", metavar="FROM=TO,...", help="labels renamed (calm=neutral), or a JSON file")
    hosts = argparse.ArgumentParser(add_help=False)
    hosts.add_argument("--distributed", action="store_true", help="join the other hosts of a TPU pod or cluster")
    hosts.add_argument("--coordinator", metavar="ADDRESS:PORT", help="of host 0, where no cluster says it")
    hosts.add_argument("--hosts", type=int, metavar="N", help="how many there are")
    hosts.add_argument("--host", type=int, metavar="K", help="which one this is, from 0")
    draws = argparse.ArgumentParser(add_help=False)
    draws.add_argument("--group-by", metavar="COLUMN", help="speaker or video, by which intervals are resampled")
    draws.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    draws.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")

    evaluate = verbs.add_parser(
        "evaluate",
        parents=[checkpoint, table, labels, hosts, common],
        help="a manifest of clips: predictions, metrics, report",
    )
    evaluate.add_argument("--manifest", required=True, metavar="FILE", help="csv, tsv, jsonl or parquet, a row a clip")
    evaluate.add_argument("--output", required=True, metavar="DIR", help="a new folder, or one to go on with")
    evaluate.add_argument("--audio-root", metavar="DIR", help="where filenames start (default: the manifest's folder)")
    evaluate.add_argument("--time-unit", default="s", metavar="UNIT", help="of start and end: s (default) or ms")
    evaluate.add_argument("--split", help="score the rows of this split only")
    evaluate.add_argument("--limit", type=int, metavar="N", help="score the first N rows only")
    evaluate.add_argument("--mode", help=f"{', '.join(MODES)} (default: a converted folder's own, else text)")
    evaluate.add_argument("--language", help=f"{' or '.join(LANGUAGES)} (default: a converted folder's own, else es)")
    evaluate.add_argument("--model-id", metavar="ID", help="hub id, published, converted folder, or bucket")
    evaluate.add_argument("--model-config", metavar="FILE", help="model.json that names the checkpoints")
    evaluate.add_argument("--whisper-model", metavar="ID", help="transcriber of rows without text (default: refused)")
    evaluate.add_argument("--group-by", metavar="COLUMN", help="speaker or video, by which intervals are resampled")
    evaluate.add_argument("--embeddings", action="store_true", help="write pooled embeddings, too")
    evaluate.add_argument(
        "--batch-size", type=int, help="clips at once on each device (default: 8, or 1 where a CPU hears: it is faster)"
    )
    evaluate.add_argument("--precision", default="float32", help="float32, equal to PyTorch, or bfloat16, faster")
    evaluate.add_argument("--device", help="cpu, gpu, cuda:1, tpu (default: all of the fastest kind)")
    evaluate.add_argument(
        "--save-every", type=float, default=30.0, metavar="SECONDS", help="what a kill loses at most (default: 30)"
    )
    evaluate.set_defaults(verb=_evaluate)

    train = verbs.add_parser(
        "train", parents=[table, labels, hosts, common], help="a recipe and a manifest: a checkpoint"
    )
    train.add_argument("recipe", metavar="RECIPE", help="a file like those in configs/")
    train.add_argument("--manifest", required=True, metavar="FILE", help="csv, tsv, jsonl or parquet, a row a clip")
    train.add_argument("--output", required=True, metavar="DIR", help="a new folder, or one to go on with")
    train.add_argument("--audio-root", metavar="DIR", help="where filenames start (default: the manifest's folder)")
    train.add_argument("--time-unit", default="s", metavar="UNIT", help="of start and end: s (default) or ms")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.FIELD=VALUE",
        help="in place of the recipe's; may be repeated",
    )
    train.add_argument("--init", help="pretrained or scratch, in place of the recipe's start.init")
    train.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's training.seed")
    train.add_argument("--group-by", metavar="COLUMN", help="speaker or video, in place of the recipe's data.group_by")
    train.add_argument(
        "--folds", type=_folds, metavar="N|groups", help="train a model a fold: N, or one a group; splits don't count"
    )
    train.set_defaults(verb=_train)

    compare = verbs.add_parser("compare", parents=[draws, common], help="two runs on the same clips, clip by clip")
    compare.add_argument("run_a", metavar="RUN_A", help="a folder that evaluate wrote")
    compare.add_argument("run_b", metavar="RUN_B")
    compare.add_argument("--output", metavar="DIR", help="write comparison.json and disagreements.csv there")
    compare.set_defaults(verb=_compare)

    calibrate = verbs.add_parser(
        "calibrate", parents=[draws, common], help="a temperature fitted on one split or run and applied to another"
    )
    calibrate.add_argument("fit_run", metavar="FIT_RUN", help="a folder that evaluate wrote")
    calibrate.add_argument("apply_run", metavar="APPLY_RUN", nargs="?", help="another one (default: the same)")
    calibrate.add_argument("--fit-split", metavar="SPLIT", help="fit on these rows only")
    calibrate.add_argument("--apply-split", metavar="SPLIT", help="apply to these rows only")
    calibrate.add_argument("--output", metavar="DIR", help="write calibration.json and calibrated.parquet there")
    calibrate.set_defaults(verb=_calibrate)

    audit = verbs.add_parser(
        "audit", parents=[table, labels, common], help="what a corpus gives away: groups in several splits"
    )
    audit.add_argument("--manifest", required=True, metavar="FILE", help="needs label, split and the group column only")
    audit.add_argument("--group-by", required=True, metavar="COLUMN", help="speaker or video")
    audit.add_argument("--train", default="train", metavar="SPLIT", help="what models learn from (default: train)")
    audit.add_argument("--test", default="test", metavar="SPLIT", help="what they are scored on (default: test)")
    audit.add_argument("--predictions", metavar="RUN", help="a run to put beside the rule that looks at no clip")
    audit.add_argument("--output", metavar="FILE", help="write the manifest with a split that shares no group (.csv)")
    audit.add_argument("--test-size", type=float, metavar="SHARE", help="of that split (default: as it was)")
    audit.add_argument("--seed", type=int, default=0, help="of that split (default: 0)")
    audit.add_argument("--json", action="store_true", help="print the audit as JSON")
    audit.set_defaults(verb=_audit)

    manifest = verbs.add_parser("manifest", parents=[common], help="the manifest of a known corpus")
    manifest.add_argument("corpus", metavar="CORPUS", help="ravdess, tess, savee, mesd or meacorpus")
    manifest.add_argument("folder", metavar="FOLDER", help="where its recordings are")
    manifest.add_argument("--output", required=True, metavar="FILE", help="the manifest to write (.csv)")
    manifest.set_defaults(verb=_manifest)

    pack = verbs.add_parser("pack", parents=[table, common], help="recordings of a manifest into ArrayRecord shards")
    pack.add_argument("--manifest", required=True, metavar="FILE", help="csv, jsonl or parquet, a row a clip")
    pack.add_argument("--audio-root", metavar="DIR", help="where filenames start (default: the manifest's folder)")
    pack.add_argument("--output", required=True, metavar="DIR", help="a new folder for shards and manifest.parquet")
    pack.add_argument("--time-unit", default="s", metavar="UNIT", help="of start and end: s (default) or ms")
    pack.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="size of a shard (default: 256)")
    pack.set_defaults(verb=_pack)


def requested(options: argparse.Namespace) -> Request:
    """The checkpoint that the flags name: --model-id, or that of the mode and language."""
    from ..checkpoints import Request
    from ..registry import read_registry

    registry = read_registry(options.model_config)
    model_id, mode, language = options.model_id, options.mode, options.language
    if model_id is None:
        mode, language = mode or "text", language or "es"
        model_id = registry.model_id(language, mode)
    return Request(
        model_id,
        mode=mode,
        language=language,
        text_encoder=options.text_encoder,
        revision=options.revision,
        weights=options.weights,
        labels=options.labels,
        registry=registry,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from ..evaluation import EvaluateConfig, evaluate

    _connect(options)
    job = EvaluateConfig(
        manifest=options.manifest,
        output=options.output,
        request=requested(options),
        audio_root=options.audio_root,
        columns=_columns(options),
        label_map=_label_map(options),
        split=options.split,
        time_unit=options.time_unit,
        limit=options.limit,
        whisper=options.whisper_model,
        precision=options.precision,
        batch_size=options.batch_size,
        device=options.device,
        embeddings=options.embeddings,
        group_by=options.group_by,
        save_every=options.save_every,
    )
    try:
        outcome = evaluate(job)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise
    show(outcome.text)
    if outcome.finished:
        show(f"Results in {options.output}: report.html, predictions.parquet")
    if outcome.errors:
        raise PartlyFailed(f"{outcome.errors} of {outcome.clips} clips could not be scored; see {options.output}")


def _folds(text: str) -> int | str:
    if text != "groups" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor groups")
    return text if text == "groups" else int(text)


def _train(options: argparse.Namespace) -> None:
    from ..training import TrainConfig, cross_validate, read_recipe, train

    overrides = list(options.set)
    if options.init is not None:
        overrides.append(f"start.init={options.init}")
    if options.seed is not None:
        overrides.append(f"training.seed={options.seed}")
    if options.group_by is not None:
        overrides.append(f"data.group_by={as_json(options.group_by)}")
    recipe = read_recipe(options.recipe, overrides)
    _connect(options)
    job = TrainConfig(
        recipe,
        manifest=options.manifest,
        output=options.output,
        audio_root=options.audio_root,
        columns=_columns(options),
        label_map=_label_map(options),
        time_unit=options.time_unit,
    )
    try:
        if options.folds is not None:
            outcome = cross_validate(job, None if options.folds == "groups" else options.folds)
        else:
            outcome = train(job)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last state that was saved")
        raise
    show(outcome.text)
    if outcome.finished and options.folds is not None:
        show(f"Results in {options.output}: folds.json, predictions.parquet, fold-1/, ...")
    elif outcome.finished:
        show(f"Results in {options.output}: best, best-published, metrics.json, evaluation/report.html, curves.png")


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


def _audit(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ..evaluation import audit, render_audit, render_split, split_by_group

    settings = {"group_by": options.group_by, "columns": _columns(options), "test": options.test}
    label_map = _label_map(options)
    found = audit(
        options.manifest,
        **settings,
        label_map=label_map or None,  # else a run's own
        train=options.train,
        predictions=options.predictions,
    )
    show(as_json(asdict(found)) if options.json else render_audit(found))
    if options.output is not None:
        split = split_by_group(
            options.manifest,
            **settings,
            output=options.output,
            label_map=label_map,
            test_size=options.test_size,
            seed=options.seed,
        )
        if not options.json:
            show(f"\n{render_split(split)}\nwrote {options.output}")


def _manifest(options: argparse.Namespace) -> None:
    from ..corpus import make_manifest, write_manifest

    corpus = make_manifest(options.corpus, options.folder)
    write_manifest(corpus.table, options.output)
    for note in corpus.notes:
        show(note)
    show(f"wrote {options.output}: {len(corpus.table):,} clips; evaluate it with --audio-root {options.folder}")


def _pack(options: argparse.Namespace) -> None:
    import os

    from ..corpus import pack

    root = options.audio_root or os.path.dirname(options.manifest) or "."
    summary = pack(
        options.manifest,
        root,
        options.output,
        columns=_columns(options),
        time_unit=options.time_unit,
        shard_bytes=options.shard_mb << 20,
    )
    show(f"wrote {options.output}: {summary}")


def _connect(options: argparse.Namespace) -> None:
    """Join the other hosts, where there are some."""
    from ..runtime.hosts import connect

    if options.distributed or options.coordinator is not None:
        connect(options.coordinator, options.hosts, options.host)
    elif options.hosts is not None or options.host is not None:
        raise InvalidInput("--hosts and --host need --coordinator, which names the address and port of host 0")


def _columns(options: argparse.Namespace) -> Mapping[str, str]:
    from ..corpus import parse_columns

    return parse_columns(options.columns) if options.columns else {}


def _label_map(options: argparse.Namespace) -> Mapping[str, str]:
    from ..corpus import load_label_map

    return load_label_map(options.label_map) if options.label_map else {}
