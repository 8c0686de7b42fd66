"""Cross-validation: one training run per fold. Each clip is scored by the one model that was not trained on its group.

Files in the output folder:

- crossvalidation.json: the manifest, the recipe and the folds. A run with others does not continue this one.
- fold-1/, fold-2/, ...: complete training runs, see `train`. The clips of the fold are the test clips.
- predictions.parquet: every clip as scored by the model of its fold, in the manifest's order.
- folds.json: each metric over the folds, and the metrics of all clips together. It is written last.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..corpus import Manifest, read_manifest, validate
from ..errors import InvalidInput
from ..evaluation import METRICS, PREDICTIONS, EvaluateResult, EvaluationRun, claim_folder, measure
from ..runtime.compat import multihost_utils
from ..runtime.console import align_columns
from ..runtime.plots import shorten
from ..runtime.progress import progress
from ..runtime.storage import Folder
from ..runtime.versions import versions
from .corpus import ROLE, TEST, TRAIN, Corpus, add_validation, choose_labels, rows_by_group, split_into_folds
from .recipe import Recipe
from .run import EVALUATION, TrainConfig, local_recordings, train
from .start import checkpoint_labels, source_digests

RECORD, RESULT = "crossvalidation.json", "folds.json"
FOLD = "test_fold"  # the column with the number of the fold that scored a clip, from 1
SHOWN = {"accuracy": "accuracy", "uar": "UAR", "macro_f1": "macro-F1"}


def cross_validate(job: TrainConfig, count: int | None) -> EvaluateResult:
    """Train one model per fold, or continue a run, and measure the predictions on the clips each model has not seen.

    All labelled rows take part, whatever their split. Each is in the test of one fold. Of the other rows of a fold, the
    fraction data.valid_share selects the best state and the rest is trained on. Groups of data.group_by are kept whole.

    Args:
        job: The settings of the training runs.
        count: The number of folds. None: one fold per group.

    Raises:
        InvalidInput: There are too few groups, or `train` raises.
    """
    recipe, folder = job.recipe, Folder.open(job.output)
    if not folder.on_disk:
        raise InvalidInput(f"{job.output} is on a bucket; train onto a disk, which all hosts share, and copy it there")
    with progress("Reading the manifest"):
        manifest = read_manifest(job.manifest, columns=job.columns, label_map=job.label_map, time_unit=job.time_unit)
    if FOLD in manifest.table.column_names:
        raise InvalidInput(f"{job.manifest} has a column {FOLD!r}, as the predictions have; rename it")
    corpora = _corpora(manifest, recipe, count)
    whole = Corpus(manifest, tuple(None if label is None else TRAIN for label in manifest.labels()))
    labels = choose_labels(whole, recipe.data, checkpoint_labels(recipe), keep_head=recipe.start.head == "kept")
    mode = recipe.model.mode
    with progress("Checking the manifest"):
        validate(
            whole.used(),
            audio_root=local_recordings(job, manifest).root,
            needs_audio=mode != "text",
            needs_text=mode != "audio",
            labels=labels,
        )
    with progress("Taking checksums of what it starts from"):
        record = _record(job, manifest, count, corpora, labels)
    if jax.process_index() == 0:
        claim_folder(folder, RECORD, record)
    # A label may be one group's alone: it is then in no training row of that fold, and yet an output of its model.
    recipe = replace(recipe, data=replace(recipe.data, labels=labels))
    for number, corpus in enumerate(corpora.values(), start=1):
        output = str(Path(job.output, _name(number)))
        if not _finished(Folder.open(output)):
            with progress(f"Fold {number} of {len(corpora)}"):
                train(replace(job, recipe=recipe, output=output), corpus)
    if jax.process_index() > 0:
        return EvaluateResult(False, 0, 0, f"host {jax.process_index()} has finished its part; host 0 has the results")
    if not folder.holds(RESULT):
        _pool(folder, corpora, labels, recipe.data.group_by)
    found = json.loads(folder.read(RESULT))
    return EvaluateResult(True, found["clips"], found["errors"], render(found))


def _corpora(manifest: Manifest, recipe: Recipe, count: int | None) -> dict[str, Corpus]:
    """Return {name of the fold: the roles in it}."""
    data, seed, truth = recipe.data, recipe.training.seed, manifest.labels()
    rows = [number for number, label in enumerate(truth) if label is not None]
    if count is not None and count < 2:
        raise InvalidInput(f"{count} fold{'s' * (count != 1)} can't be; ask for 2 or more")
    if count is not None:
        tests = {
            str(n): part for n, part in enumerate(split_into_folds(manifest, rows, count, data.group_by, seed), start=1)
        }
    elif data.group_by is None:
        raise InvalidInput("leaving one group out needs a column of groups; name it with --group-by")
    else:
        tests = rows_by_group(manifest, rows, data.group_by)
        if len(tests) < 3:  # one for the test, one for the validation
            raise InvalidInput(
                f"{manifest.name} has {len(tests)} group{'s' * (len(tests) != 1)} in {data.group_by!r}, and leaving "
                "one out takes 3 or more; ask for a number of folds by another column"
            )
    corpora = {}
    for name, test in tests.items():
        roles: list[str | None] = [None if label is None else TRAIN for label in truth]
        for row in test:
            roles[row] = TEST
        corpora[name] = add_validation(Corpus(manifest, tuple(roles)), data, seed)
    return corpora


def _record(
    job: TrainConfig, manifest: Manifest, count: int | None, corpora: Mapping[str, Corpus], labels: Sequence[str]
) -> dict[str, Any]:
    """Return everything that the results depend on. A run with other settings is not continued."""
    return {
        "recipe": job.recipe.settings(),
        "folds": "groups" if count is None else count,
        "clips": {name: len(corpus.rows(TEST)) for name, corpus in corpora.items()},
        "manifest": manifest.sha256,
        "columns": dict(manifest.columns),
        "label_map": dict(manifest.label_map),
        "time_unit": job.time_unit,
        "labels": list(labels),
        "audio_root": job.root,
        "sources": dict(source_digests(job.recipe)),
        "versions": versions("speech_emotion_jax", "jax"),
    }


def _name(number: int) -> str:
    """Return the name of a fold's folder."""
    return f"fold-{number}"


def _finished(folder: Folder) -> bool:
    """Return whether a fold is finished, as seen by host 0, so that all hosts do the same."""
    done = folder.holds(METRICS)
    return done if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(done)))


def _pool(folder: Folder, corpora: Mapping[str, Corpus], labels: Sequence[str], group_by: str | None) -> None:
    """Write the predictions of all folds together, and the metrics."""
    tables, rows, scores, scored, truth, each = [], [], [], [], [], []
    for number, (name, corpus) in enumerate(corpora.items(), start=1):
        path = Path(folder.name, _name(number))
        run = EvaluationRun.read(str(path / EVALUATION))
        assert run.labels == tuple(labels), "the recipe names them"
        tables.append(run.table.drop_columns(ROLE).append_column(FOLD, pa.array([number] * len(run.table))))
        rows += corpus.rows(TEST)
        scores.append(run.probabilities)
        scored += run.scored.tolist()
        truth += run.truth
        each.append({"name": name, "errors": int((~run.scored).sum()), **json.loads((path / METRICS).read_bytes())})
    order = np.argsort(rows)
    table = pa.concat_tables(tables)
    with folder.writing(PREDICTIONS) as file:
        pq.write_table(table.take(order), file)
    good = [place for place in order.tolist() if scored[place]]
    column = None if group_by is None else table.column(group_by).to_pylist()
    with progress("Measuring"):
        pooled = measure(
            [truth[place] for place in good],
            np.concatenate(scores)[good],
            labels,
            groups=None if column is None else [column[place] for place in good],
        )
    result = {
        "group_by": group_by,
        "clips": len(rows),
        "errors": len(rows) - len(good),
        "folds": each,
        "metrics": _over_folds(each),
        "pooled": pooled,
    }
    folder.write(RESULT, json.dumps(result, indent=1, ensure_ascii=False).encode())


def _over_folds(each: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {metric: {"values", "mean", "sd"}}; None if a fold has no value. sd is that of a sample (n - 1)."""
    names = [name for name in each[0] if any(isinstance(metrics[name], float) for metrics in each)]
    found = {}
    for name in names:
        values = [metrics[name] for metrics in each]
        whole = None not in values
        found[name] = {
            "values": values,
            "mean": statistics.fmean(values) if whole else None,
            "sd": statistics.stdev(values) if whole else None,
        }
    return found


def render(found: Mapping[str, Any]) -> str:
    """Format folds.json for a terminal: a row per fold, mean and spread, and all clips together."""
    rows = [["fold", "clips", *SHOWN.values()]]
    for number, each in enumerate(found["folds"], start=1):
        name = str(number) if each["name"] == str(number) else f"{number} {shorten(each['name'], 24)}"
        rows.append([name, f"{each['clips']:,}", *(f"{100 * each[metric]:.1f}" for metric in SHOWN)])
    spread = [found["metrics"][metric] for metric in SHOWN]
    rows.append(["mean ± sd", "", *(f"{100 * each['mean']:.1f} ± {100 * each['sd']:.1f}" for each in spread)])
    pooled = found["pooled"]
    rows.append(["pooled", f"{pooled['clips']:,}", *(f"{100 * pooled[metric]:.1f}" for metric in SHOWN)])
    if pooled["intervals"]:
        ends = [pooled["intervals"][metric] for metric in SHOWN]
        rows.append(["95 %", "", *(f"{100 * low:.1f} to {100 * high:.1f}" for low, high in ends)])
    lines = align_columns(rows)
    if found["errors"]:
        lines.append(f"{found['errors']:,} of {found['clips']:,} clips have an error and are left out")
    return "\n".join(lines)
