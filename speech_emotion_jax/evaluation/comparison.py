"""Compare two runs over the same clips: the differences, their intervals, and the clips the runs disagree on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from ..errors import InvalidInput
from ..runtime.storage import Folder
from .metrics import LabelledScores, bootstrap, group_codes, measure, percentile_interval
from .results import EvaluationRun, first_names

RECORD = "comparison.json"
DISAGREEMENTS = "disagreements.csv"
COMPARISON_METRICS = ("accuracy", "uar", "macro_f1", "weighted_f1", "log_loss", "ece")
DISAGREEMENT_KINDS = ("only A right", "only B right", "both wrong, differently", "no truth")
MAX_LISTED = 5  # clips of each kind that a terminal shows
COLUMNS = pa.schema(
    [
        ("kind", pa.string()),
        ("id", pa.string()),
        ("truth", pa.string()),
        ("a_label", pa.string()),
        ("a_score", pa.float64()),
        ("b_label", pa.string()),
        ("b_score", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Comparison:
    """The comparison of run B with run A, on the clips that both scored.

    Attributes:
        a: The folder of run A.
        b: The folder of run B.
        clips: The number of clips that both runs scored.
        left_out: The number of clips with an error in either run.
        labelled: The number of compared clips that have a label.
        group_by: The column with the groups that the intervals are drawn by.
        metrics: {name: {"a", "b", "difference" (B - A), "interval" ([low, high] or None)}} of the labelled clips. None
            if no clip has a label.
        mcnemar: {"only_a_right", "only_b_right", "p"} of the labelled clips. None if no clip has a label.
        agreement: The fraction of clips for which both runs predict the same label.
        kappa: Cohen's kappa. None if both runs predict one and the same label for all clips.
        settings: {name: [value of A, value of B]} of the settings that differ.
        disagreements: Rows with the fields of COLUMNS, sorted by kind and then by the difference of the scores.
    """

    a: str
    b: str
    clips: int
    left_out: int
    labelled: int
    group_by: str | None
    metrics: dict[str, dict[str, Any]] | None
    mcnemar: dict[str, Any] | None
    agreement: float
    kappa: float | None
    settings: dict[str, list[Any]]
    disagreements: list[dict[str, Any]]


def compare(
    run_a: EvaluationRun, run_b: EvaluationRun, *, group_by: str | None = None, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two runs clip by clip. Clips are matched by id.

    The intervals of the differences draw the same clips in both runs. McNemar's test is exact; it takes clips as
    independent, even with `group_by`.

    Args:
        run_a: The first run.
        run_b: The second run.
        group_by: The column with the groups that the intervals are drawn by. None: single clips are drawn.
        resamples: The number of bootstrap resamples.
        seed: The seed of the bootstrap.

    Raises:
        InvalidInput: The runs differ in their labels, clips or truth; no clip was scored in both; or `group_by` is not
            a column.
    """
    place = _match_rows(run_a, run_b)
    truth = run_a.truth
    scored = np.flatnonzero(run_a.scored & run_b.scored[place]).tolist()
    if not scored:
        raise InvalidInput(
            f"{run_a.name} and {run_b.name} have no clip that both scored; look at the errors in their predictions"
        )
    a_scores, b_scores = run_a.probabilities[scored], run_b.probabilities[place][scored]
    a_labels = [run_a.labels[top] for top in a_scores.argmax(axis=1).tolist()]
    b_labels = [run_b.labels[top] for top in b_scores.argmax(axis=1).tolist()]
    same = np.array(a_labels) == np.array(b_labels)
    ids, a_top, b_top = run_a.ids, a_scores.max(axis=1).tolist(), b_scores.max(axis=1).tolist()
    rows = []
    for number in np.flatnonzero(~same).tolist():
        true, a, b = truth[scored[number]], a_labels[number], b_labels[number]
        values = (_kind(true, a, b), ids[scored[number]], true, a, a_top[number], b, b_top[number])
        rows.append(dict(zip(COLUMNS.names, values, strict=True)))
    rows.sort(key=lambda row: (DISAGREEMENT_KINDS.index(row["kind"]), -abs(row["a_score"] - row["b_score"])))

    labelled = [number for number, clip in enumerate(scored) if truth[clip] is not None]
    metrics = mcnemar = None
    if labelled:
        known = [truth[scored[number]] for number in labelled]
        column = None if group_by is None else run_a.column(group_by)
        groups = None if column is None else [column[scored[number]] for number in labelled]
        metrics = _differences(
            known, (run_a.labels, a_scores[labelled]), (run_b.labels, b_scores[labelled]), groups, resamples, seed
        )
        mcnemar = _mcnemar(known, [a_labels[number] for number in labelled], [b_labels[number] for number in labelled])
    return Comparison(
        a=run_a.name,
        b=run_b.name,
        clips=len(scored),
        left_out=len(truth) - len(scored),
        labelled=len(labelled),
        group_by=group_by,
        metrics=metrics,
        mcnemar=mcnemar,
        agreement=float(same.mean()),
        kappa=None if len({*a_labels, *b_labels}) == 1 else float(cohen_kappa_score(a_labels, b_labels)),
        settings=_different_settings(run_a.record["settings"], run_b.record["settings"]),
        disagreements=rows,
    )


def write_comparison(comparison: Comparison, path: str) -> None:
    """Write comparison.json and disagreements.csv, which lists all clips with two labels, into the folder `path`."""
    folder = Folder.open(path)
    folder.make()
    record = asdict(comparison)
    disagreements = pa.Table.from_pylist(record.pop("disagreements"), schema=COLUMNS)
    with folder.writing(DISAGREEMENTS) as file:
        pyarrow.csv.write_csv(disagreements, file)
    folder.write(RECORD, (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode())


def render_comparison(comparison: Comparison) -> str:
    """Format the comparison for a terminal, with the first clips of each kind of disagreement."""
    lines = [
        f"A  {comparison.a}",
        f"B  {comparison.b}",
        f"{comparison.clips} clips scored by both, {comparison.labelled} with a label;"
        f" {comparison.left_out} left out for an error",
    ]
    if comparison.metrics is not None and comparison.mcnemar is not None:
        lines += ["", f"{'':<12}{'A':>8}{'B':>9}{'B - A':>10}  95 % interval"]
        for name, values in comparison.metrics.items():
            ends = "" if values["interval"] is None else "{:+.4f} to {:+.4f}".format(*values["interval"])
            numbers = f"{values['a']:>8.4f}{values['b']:>9.4f}{values['difference']:>+10.4f}"
            lines.append(f"{name:<12}{numbers}  {ends}".rstrip())
        if comparison.group_by is not None:
            lines.append(f"Intervals draw groups of {comparison.group_by}; McNemar's test takes clips as independent.")
        test = comparison.mcnemar
        lines.append(
            f"McNemar: only A right {test['only_a_right']}, only B right {test['only_b_right']},"
            f" exact p {test['p']:.4g}"
        )
    kappa = "undefined" if comparison.kappa is None else f"{comparison.kappa:.4f}"
    lines += ["", f"Agreement {comparison.agreement:.4f}, Cohen's kappa {kappa}"]
    for name, (a, b) in comparison.settings.items():
        lines.append(f"Setting {name}: A {json.dumps(a, ensure_ascii=False)}, B {json.dumps(b, ensure_ascii=False)}")
    for kind in DISAGREEMENT_KINDS:
        rows = [row for row in comparison.disagreements if row["kind"] == kind]
        if rows:
            lines += ["", f"{kind[0].upper()}{kind[1:]}: {len(rows)} clips"]
            for row in rows[:MAX_LISTED]:
                truth = "" if row["truth"] is None else f"  true {row['truth']}"
                scores = f"A {row['a_label']} {row['a_score']:.3f}, B {row['b_label']} {row['b_score']:.3f}"
                lines.append(f"  {row['id']}{truth}  {scores}")
            if len(rows) > MAX_LISTED:
                lines.append(f"  … and {len(rows) - MAX_LISTED} more")
    return "\n".join(lines)


def _match_rows(run_a: EvaluationRun, run_b: EvaluationRun) -> np.ndarray:
    """Return the row in B of each clip of A.

    Raises:
        InvalidInput: Labels, clips or truth differ.
    """
    if set(run_a.labels) != set(run_b.labels):
        raise InvalidInput(
            f"{run_a.name} has the labels {', '.join(run_a.labels)} and {run_b.name} has {', '.join(run_b.labels)};"
            " compare runs with the same labels"
        )
    rows_a, rows_b = ({clip: row for row, clip in enumerate(run.ids)} for run in (run_a, run_b))
    for run, rows in ((run_a, rows_a), (run_b, rows_b)):
        if len(rows) != len(run.table):
            raise InvalidInput(f"{run.name} has ids that occur twice; give each clip its own id")
    only_a = [clip for clip in rows_a if clip not in rows_b]
    only_b = [clip for clip in rows_b if clip not in rows_a]
    if only_a or only_b:
        parts = [
            f"{len(clips)} only in {run.name} ({first_names(clips)})"
            for run, clips in ((run_a, only_a), (run_b, only_b))
            if clips
        ]
        raise InvalidInput(f"the runs hold different clips: {', '.join(parts)}; score the same manifest twice")
    place = np.array([rows_b[clip] for clip in rows_a], int)
    truth_b = run_b.truth
    other = [
        f"{clip}: {true} and {truth_b[row]}"
        for clip, true, row in zip(rows_a, run_a.truth, place, strict=True)
        if true != truth_b[row]
    ]
    if other:
        raise InvalidInput(
            f"{len(other)} clips have different labels in {run_a.name} and {run_b.name} ({first_names(other)});"
            " score the same manifest twice"
        )
    return place


def _differences(
    truth: list[Any],
    a: tuple[Sequence[str], np.ndarray],
    b: tuple[Sequence[str], np.ndarray],
    groups: list[Any] | None,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Compute `Comparison.metrics` from the (labels, probabilities) of two runs."""
    codes = group_codes(groups, len(truth))
    values, drawn = [], []
    for labels, scores in (a, b):
        values.append(measure(truth, scores, labels, resamples=1))
        drawn.append(bootstrap(LabelledScores.of(truth, scores, labels), codes, resamples, seed).metrics)
    compared = {}
    for name in COMPARISON_METRICS:
        of_a, of_b = (each[name] for each in values)
        if of_a is None or of_b is None:
            continue
        difference = of_b - of_a
        each = drawn[1][name] - drawn[0][name]
        if name == "ece":  # ECE is biased, so its interval is mirrored as in `metrics.confidence_intervals`.
            each = 2 * difference - each
        ends = percentile_interval(each) if codes.max() > 0 else None
        compared[name] = {"a": of_a, "b": of_b, "difference": difference, "interval": ends}
    return compared


def _mcnemar(truth: list[Any], a_labels: list[str], b_labels: list[str]) -> dict[str, Any]:
    """Test exactly whether A and B are right equally often."""
    outcomes = list(zip(truth, a_labels, b_labels, strict=True))
    only_a = sum(a == true != b for true, a, b in outcomes)
    only_b = sum(b == true != a for true, a, b in outcomes)
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}


def _kind(true: str | None, a: str, b: str) -> str:
    """Return the kind of a disagreement."""
    if true is None:
        return DISAGREEMENT_KINDS[3]
    return DISAGREEMENT_KINDS[0] if a == true else DISAGREEMENT_KINDS[1] if b == true else DISAGREEMENT_KINDS[2]


def _different_settings(a: Mapping[str, Any], b: Mapping[str, Any], within: str = "") -> dict[str, list[Any]]:
    """Return {dotted name: [value of A, value of B]} of the settings that differ; None for a missing setting."""
    differing = {}
    for name in [*a, *(name for name in b if name not in a)]:
        of_a, of_b = a.get(name), b.get(name)
        if isinstance(of_a, Mapping) and isinstance(of_b, Mapping):
            differing |= _different_settings(of_a, of_b, f"{within}{name}.")
        elif of_a != of_b:
            differing[within + name] = [of_a, of_b]
    return differing
