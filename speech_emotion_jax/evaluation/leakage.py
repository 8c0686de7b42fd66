"""What a corpus gives away without a clip being heard: speakers or videos that are in two splits, and labels they tell.

The rule that looks at no clip gives each test clip the label that most training clips of its group have (ties: the
label first in the alphabet), and where its group is not in training the one that most training clips have. What it
scores is what a model can score by recognising the source. Clips without a label are in no score, a clip without a
group is a group of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int
from sklearn.metrics import accuracy_score, adjusted_mutual_info_score, f1_score

from ..corpus import Manifest, read_manifest, write_manifest
from ..errors import InvalidInput
from ..runtime.console import align_columns
from .metrics import group_codes
from .results import EvaluationRun

BEFORE = "split_before"  # the column of the old split, beside a new one
FEW = 10.0  # a label is said to come from few groups below so many


@dataclass(frozen=True)
class SplitOverlap:
    """Two splits, the groups that are in both, and how many groups and clips that is of each split."""

    splits: tuple[str, str]
    groups: int
    of_groups: tuple[int, int]  # all groups of each split
    clips: tuple[int, int]  # clips in shared groups, of each split
    of_clips: tuple[int, int]


@dataclass(frozen=True)
class SubsetScores:
    """Fractions, on so many labelled clips; macro-F1 averages over the labels that occur in them."""

    clips: int
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class LabelSources:
    """How a label's clips spread over groups. `effective` is 1 / Σ share², the number of groups were they even."""

    label: str
    clips: int
    groups: int
    largest: int  # clips of its largest group
    effective: float


@dataclass(frozen=True)
class ModelAndRule:
    """The model and the rule on the same test clips: those that the run has scored."""

    run: str
    model: Mapping[str, SubsetScores]  # of "all", "shared" and "unshared" clips, those there are
    rule: Mapping[str, SubsetScores]


@dataclass(frozen=True)
class Audit:
    """What was found. Counts are of clips; `rule` is None where there are no splits."""

    name: str
    group_by: str
    clips: int
    groups: int
    labels: Mapping[str, Mapping[str, int]]  # split: {label: clips}; "" for clips without one, or without a split
    shared: Sequence[SplitOverlap]  # training and test first
    fallback: str | None  # the rule's label where a group is not in training
    rule: Mapping[str, SubsetScores] | None  # of "all", "shared" and "unshared" test clips, those there are
    beside: ModelAndRule | None
    repeated: int  # groups of two or more labelled clips
    pure: int  # of them, those with one label only
    pure_by_chance: float  # how many of them had one label only, were labels dealt at random
    told: float  # adjusted mutual information over the labels' entropy, from 0 by chance to 1
    sources: Sequence[LabelSources]


@dataclass(frozen=True)
class _AuditClips:
    ids: list[str]
    labels: list[str]
    splits: list[str]
    groups: Int[np.ndarray, " clips"]

    @classmethod
    def of(cls, manifest: Manifest, group_by: str) -> _AuditClips:
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
    """Audit a manifest, of which the columns label, split and `group_by` are needed; no recording is.

    `columns` and `label_map` are `read_manifest`'s, `train` and `test` name the splits of the rule. `predictions` is a
    finished run, whose clips are matched by their id; the labels are mapped as the run did unless `label_map` is given.
    A manifest without splits is audited for its labels' sources alone. Raises InvalidInput for columns and splits that
    are not there, and for a run of other clips, and UnreadableInput for files that can't be read.
    """
    run = None if predictions is None else EvaluationRun.read(predictions)
    if run is not None and label_map is None:
        label_map = run.record["label_map"]
    manifest = read_manifest(path, columns=columns, label_map=label_map)
    clips = _AuditClips.of(manifest, group_by)
    if not any(clips.labels):
        raise InvalidInput(f"{path} has no labels; name their column with --columns label=COLUMN")
    split_names = [*dict.fromkeys([train, test]), *sorted(set(clips.splits) - {train, test, ""})]
    has_splits = any(clips.splits)
    if has_splits and (lacking := [name for name in (train, test) if name not in clips.splits]):
        there = ", ".join(sorted(set(clips.splits) - {""}))
        raise InvalidInput(f"{path} has no split {' and no '.join(map(repr, lacking))}; say which of {there} they are")
    if run is not None and not has_splits:
        raise InvalidInput(f"{path} has no splits, so there is no rule to put a model beside; name their column")
    guess, fallback, rule, beside = None, None, None, None
    if has_splits:
        guess, fallback = _rule(clips, clips.of_split(train))
        known = np.isin(clips.groups, clips.groups[clips.of_split(train)])
        tested = clips.of_split(test) & np.array([label != "" for label in clips.labels])
        if not tested.any():
            raise InvalidInput(f"{path} has no labelled clip in the split {test!r}; name another split or label column")
        rule = _scores(clips.labels, guess, tested, known)
        beside = None if run is None else _beside(run, clips, guess, tested, known)
    labelled = np.array([label != "" for label in clips.labels])
    repeated, pure, by_chance = _purity(clips, labelled)
    return Audit(
        name=path,
        group_by=group_by,
        clips=len(manifest),
        groups=int(clips.groups.max()) + 1,
        labels=_label_counts(clips.labels, clips.splits),
        shared=[_shared(clips, *pair) for pair in combinations(split_names, 2)] if has_splits else [],
        fallback=fallback,
        rule=rule,
        beside=beside,
        repeated=repeated,
        pure=pure,
        pure_by_chance=by_chance,
        told=_told(clips, labelled),
        sources=_sources(clips),
    )


def _label_counts(labels: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter(zip(splits, labels, strict=True))
    names = sorted(set(labels) - {""}) + ([""] if "" in labels else [])
    return {split: {label: counts[split, label] for label in names} for split in sorted(set(splits))}


def _shared(clips: _AuditClips, first: str, second: str) -> SplitOverlap:
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


def _rule(clips: _AuditClips, training: Bool[np.ndarray, " clips"]) -> tuple[list[str], str]:
    """(What the rule gives each clip, what it gives where the group is not in training)."""
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
    return min(counts, key=lambda label: (-counts[label], label))


def _scores(
    truth: Sequence[str],
    given: Sequence[str],
    tested: Bool[np.ndarray, " clips"],
    known: Bool[np.ndarray, " clips"],
) -> dict[str, SubsetScores]:
    """Of all tested clips, those whose group is known from training, and the others."""
    scores = {}
    for name, mask in (("all", tested), ("shared", tested & known), ("unshared", tested & ~known)):
        places = np.flatnonzero(mask).tolist()
        if places:
            true, top = [truth[each] for each in places], [given[each] for each in places]
            f1 = f1_score(true, top, labels=sorted(set(true)), average="macro", zero_division=0)  # pyright: ignore
            scores[name] = SubsetScores(len(places), float(accuracy_score(true, top)), float(f1))
    return scores


def _beside(
    run: EvaluationRun,
    clips: _AuditClips,
    guess: Sequence[str],
    tested: Bool[np.ndarray, " clips"],
    known: Bool[np.ndarray, " clips"],
) -> ModelAndRule:
    place = {id: number for number, id in enumerate(clips.ids)}
    given = [""] * len(clips.ids)
    scored = np.zeros(len(clips.ids), bool)
    for id, top, fine, true in zip(run.ids, run.column("top_label"), run.scored, run.truth, strict=True):
        if fine and (number := place.get(id)) is not None:
            given[number], scored[number] = top, True
            if true is not None and clips.labels[number] and true != clips.labels[number]:
                raise InvalidInput(
                    f"{run.name} has the label {true!r} for {id}, the manifest {clips.labels[number]!r}; audit the"
                    " manifest that was scored"
                )
    tested = tested & scored
    if not tested.any():
        raise InvalidInput(
            f"{run.name} has scored none of the test clips, by their ids (there {run.ids[0]!r}, here"
            f" {clips.ids[0]!r}); name the column of the same ids with --columns id=COLUMN"
        )
    return ModelAndRule(
        run.name, _scores(clips.labels, given, tested, known), _scores(clips.labels, guess, tested, known)
    )


def _table(clips: _AuditClips) -> tuple[list[str], Int[np.ndarray, "groups labels"]]:
    """(Labels, clips of each group and label)."""
    names = sorted(set(clips.labels) - {""})
    place = {label: number for number, label in enumerate(names)}
    counts = np.zeros((int(clips.groups.max()) + 1, len(names)), np.int64)
    for group, label in zip(clips.groups.tolist(), clips.labels, strict=True):
        if label:
            counts[group, place[label]] += 1
    return names, counts


def _purity(clips: _AuditClips, labelled: Bool[np.ndarray, " clips"]) -> tuple[int, int, float]:
    """(Groups of two or more clips, those with one label, the expected number of those in a random deal)."""
    _, counts = _table(clips)
    sizes = counts.sum(axis=1)
    repeated = sizes >= 2
    pure = repeated & (counts.max(axis=1) == sizes)
    # The clips of a group have all one label, were they drawn without replacement: Π (of the label - i) / (all - i).
    totals, clips_in_all = counts.sum(axis=0), int(labelled.sum())
    expected = 0.0
    for size, times in Counter(sizes[repeated].tolist()).items():
        drawn = np.arange(size)
        odds = np.maximum(totals[:, None] - drawn, 0) / (clips_in_all - drawn)
        expected += times * float(odds.prod(axis=1).sum())
    return int(repeated.sum()), int(pure.sum()), expected


def _told(clips: _AuditClips, labelled: Bool[np.ndarray, " clips"]) -> float:
    labels = [label for label in clips.labels if label]
    if len(set(labels)) < 2:
        return 0.0
    return float(adjusted_mutual_info_score(labels, clips.groups[labelled], average_method="min"))


def _sources(clips: _AuditClips) -> list[LabelSources]:
    names, counts = _table(clips)
    shares = counts / counts.sum(axis=0)
    effective = 1 / (shares**2).sum(axis=0)
    return [
        LabelSources(label, int(column.sum()), int((column > 0).sum()), int(column.max()), float(effective[number]))
        for number, (label, column) in enumerate(zip(names, counts.T, strict=True))
    ]


# --- a split that shares no group


@dataclass(frozen=True)
class NewSplit:
    """A manifest with a new split, and the clips of each split and label before and after."""

    table: pa.Table
    before: Mapping[str, Mapping[str, int]]
    after: Mapping[str, Mapping[str, int]]


def split_by_group(
    path: str,
    *,
    group_by: str,
    output: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str] | None = None,
    test: str = "test",
    test_size: float | None = None,
    seed: int = 0,
) -> NewSplit:
    """A new split of a manifest, in which no group is in two splits and each has about its share of every label.

    The splits are the old ones with their shares of clips; with `test_size`, a fraction, `test` has that share and the
    others divide the rest as before. A manifest without splits becomes train and `test`. The old split is kept in the
    column `split_before`, all other columns as they are. `seed` says how groups of a size are ordered. `output` names a
    .csv file to write. Raises InvalidInput as `audit`, where there are fewer groups than splits, and for a size that
    is no fraction.
    """
    manifest = read_manifest(path, columns=columns, label_map=label_map)
    clips = _AuditClips.of(manifest, group_by)
    if BEFORE in manifest.table.column_names:
        raise InvalidInput(f"{path} has a column {BEFORE} from a split before; rename it, or split the first manifest")
    if test_size is not None and not 0 < test_size < 1:
        raise InvalidInput(f"the test size {test_size} is no fraction between 0 and 1; give one like 0.2")
    shares = _shares(clips.splits, test, test_size, path)
    new = _assign(clips, shares, seed)
    table = manifest.table.drop_columns(["id"]) if manifest.has_generated_id else manifest.table
    split = pa.array(new)
    if "split" in manifest.columns:
        name = manifest.columns["split"]
        place = table.column_names.index(name)
        table = table.append_column(BEFORE, table.column(name)).set_column(place, name, split)
    else:
        table = table.append_column("split", split)
    if output is not None:
        write_manifest(table, output)
    return NewSplit(table, _label_counts(clips.labels, clips.splits), _label_counts(clips.labels, new))


def _shares(splits: Sequence[str], test: str, test_size: float | None, path: str) -> dict[str, float]:
    counts = Counter(split for split in splits if split)
    if not counts:
        if test_size is None:
            raise InvalidInput(f"{path} has no splits; say how large the test split shall be with --test-size")
        return {"train": 1 - test_size, test: test_size}
    total = sum(counts.values())
    shares = {split: counts[split] / total for split in sorted(counts)}
    if test_size is None:
        return shares
    if test not in shares or len(shares) < 2:
        raise InvalidInput(f"{path} has the splits {', '.join(shares)}; name two or more, with {test!r} among them")
    rest = (1 - test_size) / (1 - shares[test])
    return {split: test_size if split == test else share * rest for split, share in shares.items()}


def _assign(clips: _AuditClips, shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each clip: the largest groups first, each to the split that lacks most of its labels."""
    labels = sorted(set(clips.labels))
    place = {label: number for number, label in enumerate(labels)}
    groups = int(clips.groups.max()) + 1
    if groups < len(shares):
        raise InvalidInput(f"{groups} groups can't be divided into {len(shares)} splits; group by another column")
    counts = np.zeros((groups, len(labels)))
    np.add.at(counts, (clips.groups, np.array([place[label] for label in clips.labels])), 1)
    totals = counts.sum(axis=0)
    lacking = np.array(list(shares.values()))[:, None] * totals  # clips of each split and label yet to be given
    order = np.random.default_rng(seed).permutation(groups)
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    chosen = np.zeros(groups, np.int64)
    for group in order:
        # Of all splits, this one brings Σ lacking² / total of its labels down the most.
        chosen[group] = split = int(np.argmax(lacking @ (counts[group] / totals)))
        lacking[split] -= counts[group]
    names = list(shares)
    return [names[split] for split in chosen[clips.groups].tolist()]


# --- as text


def render_audit(found: Audit) -> str:
    """An audit for the terminal."""
    lines = [f"{found.name}: {found.clips:,} clips in {found.groups:,} groups by {found.group_by}"]
    if found.rule is None:
        lines += ["", "There are no splits, so nothing can be shared between them."]
    for shared in found.shared:
        (first, second), clips, of_clips = shared.splits, shared.clips, shared.of_clips
        lines += [
            "",
            f"{shared.groups:,} of {shared.of_groups[1]:,} {second} groups are also in {first}"
            f" ({_percent(shared.groups, shared.of_groups[1])})",
            f"{clips[1]:,} of {of_clips[1]:,} {second} clips are in these groups ({_percent(clips[1], of_clips[1])}),"
            f" and {clips[0]:,} of {of_clips[0]:,} {first} clips ({_percent(clips[0], of_clips[0])})",
        ]
    if found.rule is not None:
        lines += [
            "",
            f"The rule that looks at no clip (the majority training label of the group, else {found.fallback}):",
            *_scores_lines({"rule": found.rule}),
        ]
    if found.beside is not None:
        lines += [
            "",
            f"{found.beside.run} beside the rule, on the test clips that it has scored:",
            *_scores_lines({"model": found.beside.model, "rule": found.beside.rule}),
        ]
    lines += [
        "",
        "Labels and source",
        f"{found.pure:,} of {found.repeated:,} groups of two or more clips have one label only"
        f" ({_percent(found.pure, found.repeated)}; {_percent(found.pure_by_chance, found.repeated)} if labels were"
        " dealt at random)",
        f"{100 * max(found.told, 0):.1f} % of what there is to know of the label is told by the group, beyond chance"
        " (adjusted mutual information / entropy of the labels)",
        "",
        *align_columns(
            [
                ("label", "clips", "groups", "in the largest", "even groups", ""),
                *(
                    (
                        source.label,
                        f"{source.clips:,}",
                        f"{source.groups:,}",
                        _percent(source.largest, source.clips),
                        f"{source.effective:.1f}",
                        "FEW: its score is that of these sources" if source.effective < FEW else "",
                    )
                    for source in found.sources
                ),
            ]
        ),
        "(even groups: as many groups of the same size would be as varied)",
    ]
    return "\n".join(lines)


def render_split(split: NewSplit) -> str:
    """Clips and label shares of each split, before and after, for the terminal."""
    lines = []
    for title, counts in (("before", split.before), ("after", split.after)):
        labels = list(next(iter(counts.values())))
        total = sum(sum(row.values()) for row in counts.values())
        rows = [("split", "clips", "share", *(label or "(none)" for label in labels))]
        for name, row in counts.items():
            clips = sum(row.values())
            shares = (_percent(row[label], clips) for label in labels)
            rows.append((name or "(none)", f"{clips:,}", _percent(clips, total), *shares))
        lines += [f"Labels {title}", *align_columns(rows), ""]
    return "\n".join([*lines, "No group is in two of the new splits."])


def _scores_lines(by_name: Mapping[str, Mapping[str, SubsetScores]]) -> list[str]:
    rows = [("test clips", "", *(f"{name} {what}" for name in by_name for what in ("accuracy", "macro-F1")))]
    titles = {"all": "all", "shared": "of groups in training", "unshared": "of other groups"}
    for key, title in titles.items():
        if any(key in scores for scores in by_name.values()):
            found = [scores[key] for scores in by_name.values()]
            values = [text for each in found for text in (f"{100 * each.accuracy:.1f} %", f"{100 * each.macro_f1:.1f}")]
            rows.append((title, f"{found[0].clips:,}", *values))
    return align_columns(rows)


def _percent(part: float | int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"
