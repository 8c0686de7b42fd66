"""Split a manifest so that no speaker, video or other group is in two splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from ..corpus import read_manifest, write_manifest
from ..errors import InvalidInput
from ..runtime.console import align_columns
from .audit_text import format_percent
from .leakage import AuditClips, count_labels

OLD_SPLIT_COLUMN = "split_before"  # the column with the old split, beside the new one


def partition_groups(
    labels: Sequence[str], groups: Int[np.ndarray, " clips"], fractions: Sequence[float], seed: int
) -> Int[np.ndarray, " clips"]:
    """Partition clips into parts so that no group is in two parts and every part has its fraction of each label.

    The largest groups are placed first; groups of equal size are placed in random order. Each group goes where the
    counts of the labels stay nearest to the fractions: to the part where the sum over labels of
    clips² / (fraction * all clips of the label) grows least. For single clips this is the Sainte-Laguë method of
    allocating seats. scikit-learn's StratifiedGroupKFold makes parts of equal size only.

    Args:
        labels: The label of each clip.
        groups: The number of each clip's group, from 0 without gaps.
        fractions: The fraction of the clips that each part gets. They sum to 1.
        seed: The seed of the order of groups of equal size.

    Returns:
        The number of each clip's part. No part is empty if there are at least as many groups as parts.
    """
    names, codes = np.unique(np.array(labels, str), return_inverse=True)
    clips = np.zeros((groups.max() + 1, len(names)))  # clips of each group and label
    np.add.at(clips, (groups, codes), 1)
    drawn = np.random.default_rng(seed).permutation(len(clips))
    # Single clips are placed label by label, so that one label's remainders fill what the label before left open.
    order = drawn[np.lexsort((clips[drawn].argmax(axis=1), -clips[drawn].sum(axis=1)))]
    fraction, total = np.array(fractions), clips.sum(axis=0)
    placed = np.zeros((len(fractions), len(names)))
    part_of = np.empty(len(clips), np.int64)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        sizes = placed.sum(axis=1)
        growth = ((2 * placed + clips[group]) * (clips[group] / total)).sum(axis=1) / fraction
        if left <= (sizes == 0).sum():
            growth[sizes > 0] = np.inf  # Every remaining group is needed to fill an empty part.
        part = np.lexsort((sizes / fraction, growth))[0]
        placed[part] += clips[group]
        part_of[group] = part
    return part_of[groups]


@dataclass(frozen=True)
class NewSplit:
    """A manifest with a new split.

    Attributes:
        table: The manifest's table with the new split.
        before: {split: {label: clips}} of the old split.
        after: The same for the new split.
    """

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
    """Make a new split of a manifest in which no group is in two splits and every split has its fraction of each label.

    The new splits have the names of the old ones and their fractions of the clips. The old split is kept in the column
    `split_before`; all other columns stay as they are.

    Args:
        path: The manifest.
        group_by: The column with the groups.
        output: The .csv file to write. None: nothing is written.
        columns: See `read_manifest`.
        label_map: See `read_manifest`.
        test: The name of the test split.
        test_size: The fraction of the clips for the test split, between 0 and 1. The other splits divide the rest in
            their old proportions. A manifest without splits gets the splits "train" and `test`.
        seed: The seed of the order in which groups of equal size are placed.

    Raises:
        InvalidInput: See `audit`; or there are fewer groups than splits, or `test_size` is not a fraction.
    """
    manifest = read_manifest(path, columns=columns, label_map=label_map)
    clips = AuditClips.of(manifest, group_by)
    if OLD_SPLIT_COLUMN in manifest.table.column_names:
        raise InvalidInput(
            f"{path} has a column {OLD_SPLIT_COLUMN} from an earlier split; rename the column, or split the original"
            " manifest"
        )
    if test_size is not None and not 0 < test_size < 1:
        raise InvalidInput(f"the test size {test_size} is no fraction between 0 and 1; give a fraction such as 0.2")
    fractions = _split_fractions(clips.splits, test, test_size, path)
    if clips.groups.max() + 1 < len(fractions):
        raise InvalidInput(
            f"{clips.groups.max() + 1} groups can't be divided into {len(fractions)} splits; group by another column"
        )
    names = list(fractions)
    parts = partition_groups(clips.labels, clips.groups, list(fractions.values()), seed)
    new = [names[part] for part in parts.tolist()]
    table = manifest.table.drop_columns(["id"]) if manifest.has_generated_id else manifest.table
    split = pa.array(new)
    if "split" in manifest.columns:
        name = manifest.columns["split"]
        place = table.column_names.index(name)
        table = table.append_column(OLD_SPLIT_COLUMN, table.column(name)).set_column(place, name, split)
    else:
        table = table.append_column("split", split)
    if output is not None:
        write_manifest(table, output)
    return NewSplit(table, count_labels(clips.labels, clips.splits), count_labels(clips.labels, new))


def _split_fractions(splits: Sequence[str], test: str, test_size: float | None, path: str) -> dict[str, float]:
    """Return {split: its fraction of the clips}."""
    counts = Counter(split for split in splits if split)
    if not counts:
        if test_size is None:
            raise InvalidInput(f"{path} has no splits; give the size of the test split with --test-size")
        return {"train": 1 - test_size, test: test_size}
    total = sum(counts.values())
    fractions = {split: counts[split] / total for split in sorted(counts)}
    if test_size is None:
        return fractions
    if test not in fractions or len(fractions) < 2:
        raise InvalidInput(f"{path} has the splits {', '.join(fractions)}; name two or more, including {test!r}")
    rest = (1 - test_size) / (1 - fractions[test])
    return {split: test_size if split == test else fraction * rest for split, fraction in fractions.items()}


def render_split(split: NewSplit) -> str:
    """Format the clips and labels of each split, before and after, for a terminal."""
    lines = []
    for title, counts in (("before", split.before), ("after", split.after)):
        labels = list(next(iter(counts.values())))
        total = sum(sum(row.values()) for row in counts.values())
        rows = [("split", "clips", "percent", *(label or "(none)" for label in labels))]
        for name, row in counts.items():
            clips = sum(row.values())
            percents = (format_percent(row[label], clips) for label in labels)
            rows.append((name or "(none)", f"{clips:,}", format_percent(clips, total), *percents))
        lines += [f"Labels {title}", *align_columns(rows), ""]
    return "\n".join([*lines, "No group is in two of the new splits."])
