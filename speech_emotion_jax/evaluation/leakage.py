"""Audit a corpus for leakage, without listening to a clip.

Two things leak: speakers or videos (groups) that occur in two splits, and labels that the group alone predicts.

The baseline rule predicts the most frequent training label of a clip's group (of equally frequent labels, the
alphabetically first). If the group is not in the training split, it predicts the most frequent training label overall.
A model can reach the rule's score by recognising the source alone. Clips without a label are not scored. A clip without
a group forms a group of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int
from sklearn.metrics import accuracy_score, adjusted_mutual_info_score, f1_score

from ..corpus import Manifest, read_manifest
from ..errors import InvalidInput
from .metrics import group_codes
from .results import EvaluationRun


@dataclass(frozen=True)
class SplitOverlap:
    """The groups that occur in both of two splits.

    Attributes:
        splits: The names of the two splits.
        groups: The number of groups that are in both.
        of_groups: The number of groups of each split.
        clips: The number of clips in shared groups, for each split.
        of_clips: The number of clips of each split.
    """

    splits: tuple[str, str]
    groups: int
    of_groups: tuple[int, int]
    clips: tuple[int, int]
    of_clips: tuple[int, int]


@dataclass(frozen=True)
class SubsetScores:
    """Accuracy and macro-F1 on a subset of the labelled test clips, as fractions.

    Macro-F1 averages over the labels that occur in the subset.
    """

    clips: int
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class LabelSources:
    """How a label's clips are distributed over groups.

    Attributes:
        label: The label.
        clips: The number of clips with the label.
        groups: The number of groups that have such clips.
        largest: The number of such clips in the group that has most of them.
        effective: The effective number of groups, 1 / Σ fraction², where the fractions are those of the label's clips.
    """

    label: str
    clips: int
    groups: int
    largest: int
    effective: float


@dataclass(frozen=True)
class ModelAndRule:
    """The scores of a model and of the baseline rule on the test clips that the run has scored.

    Attributes:
        run: The folder of the run.
        model: {"all", "shared", "unshared": scores}. "shared" clips have a group that is in the training split. A
            subset without clips is left out.
        rule: The same for the baseline rule.
    """

    run: str
    model: Mapping[str, SubsetScores]
    rule: Mapping[str, SubsetScores]


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        name: The manifest's path.
        group_by: The column with the groups.
        clips: The number of clips.
        groups: The number of groups.
        labels: {split: {label: clips}}; "" stands for a missing label or split.
        shared: The overlap of each pair of splits, training and test first.
        fallback: The label that the rule predicts for groups outside the training split. None without splits.
        rule: The rule's scores on "all", "shared" and "unshared" test clips, see `ModelAndRule`. None without splits.
        beside: The scores of a model and the rule on the same clips. None without predictions.
        repeated: The number of groups with two or more labelled clips.
        pure: The number of those groups that have a single label.
        pure_by_chance: The expected number of single-label groups if labels were assigned at random.
        told: Adjusted mutual information of group and label over the entropy of the labels: about 0 by chance, at most
            1.
        sources: The sources of each label.
    """

    name: str
    group_by: str
    clips: int
    groups: int
    labels: Mapping[str, Mapping[str, int]]
    shared: Sequence[SplitOverlap]
    fallback: str | None
    rule: Mapping[str, SubsetScores] | None
    beside: ModelAndRule | None
    repeated: int
    pure: int
    pure_by_chance: float
    told: float
    sources: Sequence[LabelSources]


@dataclass(frozen=True)
class AuditClips:
    """The columns of a manifest that the audit needs; "" stands for a missing id, label or split."""

    ids: list[str]
    labels: list[str]
    splits: list[str]
    groups: Int[np.ndarray, " clips"]

    @classmethod
    def of(cls, manifest: Manifest, group_by: str) -> AuditClips:
        """Take the columns of a manifest. Raises InvalidInput if it has no column `group_by`."""
        if group_by not in manifest.table.column_names:
            raise InvalidInput(
                f"{manifest.name} has no column {group_by!r}; group by one of {', '.join(manifest.table.column_names)}"
            )
        return cls(
            [each or "" for each in manifest.column("id").to_pylist()],
            [each or "" for each in manifest.labels()],
            [each or "" for each in manifest.column("split").to_pylist()],
            group_codes(manifest.table.column(group_by).to_pylist(), len(manifest)),
        )

    def of_split(self, split: str) -> Bool[np.ndarray, " clips"]:
        """Return which clips are in a split."""
        return np.array([each == split for each in self.splits])


def audit(
    path: str,
    *,
    group_by: str,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str] | None = None,
    train: str = "train",
    test: str = "test",
    predictions: str | None = None,
) -> Audit:
    """Audit a manifest. It needs the columns label and split and the column `group_by`, but no recordings.

    A manifest without splits is audited for the sources of its labels only.

    Args:
        path: The manifest.
        group_by: The column with the speaker, video or other group of each clip.
        columns: See `read_manifest`.
        label_map: See `read_manifest`. None: the label map of the run, if `predictions` is given.
        train: The split that the baseline rule learns from.
        test: The split that the rule is scored on.
        predictions: The folder of a finished run to compare with the rule. Clips are matched by id.

    Raises:
        InvalidInput: A column or split is missing, or the run scored other clips.
        UnreadableInput: A file can't be read.
    """
    run = None if predictions is None else EvaluationRun.read(predictions)
    if run is not None and label_map is None:
        label_map = run.record["label_map"]
    manifest = read_manifest(path, columns=columns, label_map=label_map)
    clips = AuditClips.of(manifest, group_by)
    if not any(clips.labels):
        raise InvalidInput(f"{path} has no labels; name their column with --columns label=COLUMN")
    split_names = [*dict.fromkeys([train, test]), *sorted(set(clips.splits) - {train, test, ""})]
    has_splits = any(clips.splits)
    if has_splits and (lacking := [name for name in (train, test) if name not in clips.splits]):
        there = ", ".join(sorted(set(clips.splits) - {""}))
        raise InvalidInput(
            f"{path} has no split {' and no '.join(map(repr, lacking))}; name the training and test splits; the"
            f" manifest has {there}"
        )
    if run is not None and not has_splits:
        raise InvalidInput(
            f"{path} has no splits, so a model can't be compared with the baseline rule; name the column of the"
            " splits with --columns split=COLUMN"
        )
    guess, fallback, rule, beside = None, None, None, None
    if has_splits:
        guess, fallback = _apply_rule(clips, clips.of_split(train))
        known = np.isin(clips.groups, clips.groups[clips.of_split(train)])
        tested = clips.of_split(test) & np.array([label != "" for label in clips.labels])
        if not tested.any():
            raise InvalidInput(f"{path} has no labelled clip in the split {test!r}; name another split or label column")
        rule = _score_subsets(clips.labels, guess, tested, known)
        beside = None if run is None else _compare_with_apply_rule(run, clips, guess, tested, known)
    labelled = np.array([label != "" for label in clips.labels])
    repeated, pure, by_chance = _purity(clips, labelled)
    return Audit(
        name=path,
        group_by=group_by,
        clips=len(manifest),
        groups=int(clips.groups.max()) + 1,
        labels=count_labels(clips.labels, clips.splits),
        shared=[_split_overlap(clips, *pair) for pair in combinations(split_names, 2)] if has_splits else [],
        fallback=fallback,
        rule=rule,
        beside=beside,
        repeated=repeated,
        pure=pure,
        pure_by_chance=by_chance,
        told=_label_information(clips, labelled),
        sources=_label_sources(clips),
    )


def count_labels(labels: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return {split: {label: clips}}, missing labels last."""
    counts = Counter(zip(splits, labels, strict=True))
    names = sorted(set(labels) - {""}) + ([""] if "" in labels else [])
    return {split: {label: counts[split, label] for label in names} for split in sorted(set(splits))}


def _split_overlap(clips: AuditClips, first: str, second: str) -> SplitOverlap:
    """Count the groups and clips that two splits share."""
    masks = clips.of_split(first), clips.of_split(second)
    sets = [np.unique(clips.groups[mask]) for mask in masks]
    both = np.intersect1d(sets[0], sets[1])
    inside = [int(np.isin(clips.groups[mask], both).sum()) for mask in masks]
    return SplitOverlap(
        (first, second),
        len(both),
        (len(sets[0]), len(sets[1])),
        (inside[0], inside[1]),
        (int(masks[0].sum()), int(masks[1].sum())),
    )


def _apply_rule(clips: AuditClips, training: Bool[np.ndarray, " clips"]) -> tuple[list[str], str]:
    """Return the rule's label for each clip, and its label for groups outside the training split."""
    of_group: dict[int, Counter[str]] = {}
    overall: Counter[str] = Counter()
    for each in np.flatnonzero(training).tolist():
        if label := clips.labels[each]:
            of_group.setdefault(int(clips.groups[each]), Counter())[label] += 1
            overall[label] += 1
    if not overall:
        raise InvalidInput("no training clip has a label; name another split or label column")
    fallback = _majority(overall)
    majority = {group: _majority(counts) for group, counts in of_group.items()}
    return [majority.get(group, fallback) for group in clips.groups.tolist()], fallback


def _majority(counts: Counter[str]) -> str:
    """Return the most frequent label; of equally frequent labels, the alphabetically first."""
    return min(counts, key=lambda label: (-counts[label], label))


def _score_subsets(
    truth: Sequence[str],
    given: Sequence[str],
    tested: Bool[np.ndarray, " clips"],
    known: Bool[np.ndarray, " clips"],
) -> dict[str, SubsetScores]:
    """Score predictions on all tested clips, on those whose group is known from training, and on the others."""
    scores = {}
    for name, mask in (("all", tested), ("shared", tested & known), ("unshared", tested & ~known)):
        places = np.flatnonzero(mask).tolist()
        if places:
            true, top = [truth[each] for each in places], [given[each] for each in places]
            f1 = f1_score(true, top, labels=sorted(set(true)), average="macro", zero_division=0)  # pyright: ignore
            scores[name] = SubsetScores(len(places), float(accuracy_score(true, top)), float(f1))
    return scores


def _compare_with_apply_rule(
    run: EvaluationRun,
    clips: AuditClips,
    guess: Sequence[str],
    tested: Bool[np.ndarray, " clips"],
    known: Bool[np.ndarray, " clips"],
) -> ModelAndRule:
    """Score a run and the rule on the test clips that the run scored."""
    place = {id: number for number, id in enumerate(clips.ids)}
    given = [""] * len(clips.ids)
    scored = np.zeros(len(clips.ids), bool)
    for id, top, fine, true in zip(run.ids, run.column("top_label"), run.scored, run.truth, strict=True):
        if fine and (number := place.get(id)) is not None:
            given[number], scored[number] = top, True
            if true is not None and clips.labels[number] and true != clips.labels[number]:
                raise InvalidInput(
                    f"{run.name} has the label {true!r} for {id}, the manifest {clips.labels[number]!r}; audit the"
                    " manifest that the run scored"
                )
    tested = tested & scored
    if not tested.any():
        raise InvalidInput(
            f"{run.name} has scored none of the test clips, by their ids (there {run.ids[0]!r}, here"
            f" {clips.ids[0]!r}); name the column of the same ids with --columns id=COLUMN"
        )
    return ModelAndRule(
        run.name, _score_subsets(clips.labels, given, tested, known), _score_subsets(clips.labels, guess, tested, known)
    )


def _count_by_group(clips: AuditClips) -> tuple[list[str], Int[np.ndarray, "groups labels"]]:
    """Return the labels, and the number of clips of each group and label."""
    names = sorted(set(clips.labels) - {""})
    place = {label: number for number, label in enumerate(names)}
    counts = np.zeros((int(clips.groups.max()) + 1, len(names)), np.int64)
    for group, label in zip(clips.groups.tolist(), clips.labels, strict=True):
        if label:
            counts[group, place[label]] += 1
    return names, counts


def _purity(clips: AuditClips, labelled: Bool[np.ndarray, " clips"]) -> tuple[int, int, float]:
    """Count groups of two or more clips and those with one label; compute how many of the latter chance would give."""
    _, counts = _count_by_group(clips)
    sizes = counts.sum(axis=1)
    repeated = sizes >= 2
    pure = repeated & (counts.max(axis=1) == sizes)
    # Probability that a group drawn without replacement has one label: Π (clips of the label - i) / (all clips - i).
    totals, clips_in_all = counts.sum(axis=0), int(labelled.sum())
    expected = 0.0
    for size, times in Counter(sizes[repeated].tolist()).items():
        drawn = np.arange(size)
        odds = np.maximum(totals[:, None] - drawn, 0) / (clips_in_all - drawn)
        expected += times * float(odds.prod(axis=1).sum())
    return int(repeated.sum()), int(pure.sum()), expected


def _label_information(clips: AuditClips, labelled: Bool[np.ndarray, " clips"]) -> float:
    """Return the adjusted mutual information of group and label over the entropy of the labels."""
    labels = [label for label in clips.labels if label]
    if len(set(labels)) < 2:
        return 0.0
    return float(adjusted_mutual_info_score(labels, clips.groups[labelled], average_method="min"))


def _label_sources(clips: AuditClips) -> list[LabelSources]:
    """Return the sources of each label."""
    names, counts = _count_by_group(clips)
    fractions = counts / counts.sum(axis=0)
    effective = 1 / (fractions**2).sum(axis=0)
    return [
        LabelSources(label, int(column.sum()), int((column > 0).sum()), int(column.max()), float(effective[number]))
        for number, (label, column) in enumerate(zip(names, counts.T, strict=True))
    ]
