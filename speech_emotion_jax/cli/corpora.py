"""The verbs that prepare and check a corpus: manifest, pack, audit."""

from __future__ import annotations

import argparse
from typing import Any

from ..runtime.console import as_json, show
from . import options as shared


def add_verbs(verbs: Any) -> None:
    """Add the verbs to argparse's subparsers."""
    manifest = verbs.add_parser("manifest", parents=[shared.COMMON], help="write the manifest of a known corpus")
    manifest.add_argument("corpus", metavar="CORPUS", help="ravdess, tess, savee, mesd or meacorpus")
    manifest.add_argument("folder", type=shared.disk_place, metavar="FOLDER", help="folder of its recordings")
    manifest.add_argument(
        "--output", type=shared.any_place, required=True, metavar="FILE", help="the manifest to write (.csv)"
    )
    manifest.set_defaults(run=_manifest)

    pack = verbs.add_parser(
        "pack",
        parents=[shared.AUDIO_ROOT, shared.COLUMNS, shared.COMMON],
        help="pack the recordings of a manifest into ArrayRecord shards",
    )
    pack.add_argument(
        "--manifest",
        type=shared.any_place,
        required=True,
        metavar="FILE",
        help="csv, tsv, jsonl or parquet; one row per clip",
    )
    pack.add_argument(
        "--output",
        type=shared.disk_place,
        required=True,
        metavar="DIR",
        help="new folder for the shards and manifest.parquet",
    )
    pack.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="size of a shard in MiB (default: 256)")
    pack.set_defaults(run=_pack)

    audit = verbs.add_parser(
        "audit",
        parents=[shared.COLUMNS, shared.LABEL_MAP, shared.JSON, shared.COMMON],
        help="find groups of clips that are in several splits, and what they reveal about the test labels",
    )
    audit.add_argument(
        "--manifest",
        type=shared.any_place,
        required=True,
        metavar="FILE",
        help="needs the columns label, split and the group column only",
    )
    audit.add_argument("--group-by", required=True, metavar="COLUMN", help="column of the group: speaker or video")
    audit.add_argument("--train", default="train", metavar="SPLIT", help="training split (default: train)")
    audit.add_argument("--test", default="test", metavar="SPLIT", help="test split (default: test)")
    audit.add_argument(
        "--predictions",
        type=shared.any_place,
        metavar="RUN",
        help="output folder of evaluate, to compare with a rule that uses no audio",
    )
    audit.add_argument(
        "--output",
        type=shared.any_place,
        metavar="FILE",
        help="write the manifest with a new split in which no group is divided (.csv)",
    )
    audit.add_argument(
        "--test-size", type=float, metavar="FRACTION", help="test fraction of the new split (default: as it was)"
    )
    audit.add_argument("--seed", type=int, default=0, help="seed of the new split (default: 0)")
    audit.set_defaults(run=_audit)


def _manifest(options: argparse.Namespace) -> None:
    from ..corpus import make_manifest, write_manifest

    corpus = make_manifest(options.corpus, options.folder)
    write_manifest(corpus.table, options.output)
    for note in corpus.notes:
        show(note)
    show(f"wrote {options.output}: {len(corpus.table):,} clips; evaluate it with --audio-root {options.folder}")


def _pack(options: argparse.Namespace) -> None:
    from ..corpus import pack, recordings_root

    root = recordings_root(options.manifest, options.audio_root)
    summary = pack(
        options.manifest,
        root,
        options.output,
        columns=shared.columns(options),
        time_unit=options.time_unit,
        shard_bytes=options.shard_mb << 20,
    )
    show(f"wrote {options.output}: {summary}")


def _audit(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ..evaluation import audit, render_audit, render_split, split_by_group

    settings = {"group_by": options.group_by, "columns": shared.columns(options), "test": options.test}
    label_map = shared.label_map(options)
    result = audit(
        options.manifest,
        **settings,
        label_map=label_map or None,  # None: the label map that the run of --predictions was made with
        train=options.train,
        predictions=options.predictions,
    )
    show(as_json(asdict(result)) if options.json else render_audit(result))
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
