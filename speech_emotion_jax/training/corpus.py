"""Assign a role to the clips of a manifest: training, validation or test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from ..corpus import NOTHING, Manifest
from ..errors import InvalidInput
from ..evaluation import group_codes, partition_groups
from .recipe import DataConfig

TRAIN, VALID, TEST = "train", "valid", "test"
ROLE = "role"  # the column of the role, in the manifest beside a trained model


@dataclass(frozen=True)
class Corpus:
    """A manifest and the role of each of its rows: "train", "valid", "test" or None."""

    manifest: Manifest
    roles: tuple[str | None, ...]

    def rows(self, role: str) -> list[int]:
        """Return the numbers of the rows with a role."""
        return [number for number, each in enumerate(self.roles) if each == role]

    def used(self) -> Manifest:
        """Return the manifest of the rows that have a role."""
        rows = [number for number, role in enumerate(self.roles) if role is not None]
        return replace(self.manifest, table=self.manifest.table.take(rows), file_rows=self.manifest.file_rows[rows])

    def table(self) -> pa.Table:
        """Return the manifest's table with the roles as the column `role`, replacing a column of that name."""
        table = self.manifest.table
        if ROLE in table.column_names:
            table = table.drop_columns(ROLE)
        return table.append_column(ROLE, pa.array(self.roles, pa.string()))

    def columns(self) -> dict[str, str]:
        """Return {field: column} of `table`, with the role as the split."""
        return {**self.manifest.columns, "split": ROLE}


def assign_roles(manifest: Manifest, data: DataConfig, seed: int) -> Corpus:
    """Assign a role to each labelled row, by the splits of the manifest.

    Without a column of splits all rows are for training. If the recipe names no split for validation, a fraction of the
    training rows is taken.

    Args:
        manifest: The manifest.
        data: The table [data] of the recipe.
        seed: The seed of the validation split.

    Raises:
        InvalidInput: A split is named twice or has no labelled row, or there are too few rows or groups to train on.
    """
    truth = manifest.labels()
    has_splits = "split" in manifest.columns
    splits = manifest.column("split").to_pylist() if has_splits else [data.train] * len(manifest)
    chosen = [(split, role) for split, role in ((data.train, TRAIN), (data.valid, VALID), (data.test, TEST)) if split]
    named = dict(chosen)
    if len(named) < len(chosen):
        raise InvalidInput(
            f"data.train, data.valid and data.test are {', '.join(split for split, _ in chosen)}; name each split once"
        )
    roles = [None if label is None else named.get(split) for split, label in zip(splits, truth, strict=True)]
    there = ", ".join(sorted({str(split) for split in splits if split}))
    for split, role in chosen:
        if role != TEST and role not in roles:
            raise InvalidInput(f"{manifest.name} has no labelled rows of the split {split!r}; there are {there}")
    corpus = Corpus(manifest, tuple(roles))
    return corpus if data.valid is not None else add_validation(corpus, data, seed)


def add_validation(corpus: Corpus, data: DataConfig, seed: int) -> Corpus:
    """Make a fraction of the training rows the validation rows, with labels in proportion and groups kept whole.

    With few groups the validation gets more than the fraction, at least one group.

    Raises:
        InvalidInput: There are fewer than two groups.
    """
    rows, manifest = corpus.rows(TRAIN), corpus.manifest
    groups = _groups(manifest, rows, data.group_by)
    if groups.max(initial=-1) < 1:
        what = "row" if data.group_by is None else f"group in {data.group_by!r}"
        raise InvalidInput(
            f"{manifest.name} has no second {what} to learn from beside that of the validation; add some, or name a "
            "split with data.valid"
        )
    parts = _partition(manifest, rows, groups, [data.valid_share, 1 - data.valid_share], seed)
    roles = list(corpus.roles)
    for row in parts[0]:
        roles[row] = VALID
    return replace(corpus, roles=tuple(roles))


def split_into_folds(
    manifest: Manifest, rows: Sequence[int], count: int, group_by: str | None, seed: int
) -> list[list[int]]:
    """Split labelled rows into folds of about equal size and equal fractions of each label. Groups are kept whole.

    Args:
        manifest: The manifest.
        rows: The numbers of the rows.
        count: The number of folds.
        group_by: The column with the groups. None: every row is a group of its own.
        seed: The seed of the order.

    Raises:
        InvalidInput: There is no such column, or fewer groups or rows than folds.
    """
    groups = _groups(manifest, rows, group_by)
    there = int(groups.max(initial=-1)) + 1
    if there < count:
        what = "labelled rows" if group_by is None else f"groups in {group_by!r}"
        raise InvalidInput(f"{manifest.name} has {there} {what}, fewer than {count} folds; ask for fewer folds")
    return _partition(manifest, rows, groups, [1 / count] * count, seed)


def rows_by_group(manifest: Manifest, rows: Sequence[int], group_by: str) -> dict[str, list[int]]:
    """Return {group: its rows}, in the order of the groups' first rows.

    Raises:
        InvalidInput: A row has no group.
    """
    column = _group_column(manifest, group_by)
    found: dict[str, list[int]] = {}
    for row in rows:
        if (group := column[row]) is None:
            raise InvalidInput(
                f"row {manifest.file_rows[row]} of {manifest.name} has nothing in {group_by!r}, and a group is to be "
                "left out at a time; give it one, or ask for a number of folds"
            )
        found.setdefault(group, []).append(row)
    return found


def _partition(
    manifest: Manifest, rows: Sequence[int], groups: Int[np.ndarray, " rows"], fractions: Sequence[float], seed: int
) -> list[list[int]]:
    """Return the rows of each part, see `partition_groups`."""
    labels = manifest.labels()
    parts = partition_groups([str(labels[row]) for row in rows], groups, fractions, seed).tolist()
    return [[row for row, each in zip(rows, parts, strict=True) if each == part] for part in range(len(fractions))]


def _groups(manifest: Manifest, rows: Sequence[int], group_by: str | None) -> Int[np.ndarray, " rows"]:
    """Return the number of each row's group. A row without a group is a group of its own."""
    if group_by is None:
        return np.arange(len(rows))
    column = _group_column(manifest, group_by)
    return group_codes([column[row] for row in rows], len(rows)).astype(np.int64)


def _group_column(manifest: Manifest, group_by: str) -> list[str | None]:
    """Return the group of each row of the manifest; None if it has none."""
    names = manifest.table.column_names
    if group_by not in names:
        raise InvalidInput(f"{manifest.name} has no column {group_by!r} to group by; there are {', '.join(names)}")
    cells = manifest.table.column(group_by).to_pylist()
    return [None if cell in (None, "", *NOTHING) or cell != cell else str(cell) for cell in cells]


def choose_labels(
    corpus: Corpus, data: DataConfig, checkpoint: Sequence[str] | None, *, keep_head: bool
) -> tuple[str, ...]:
    """Choose the labels of the model's outputs, in order.

    These are the labels that the recipe names, else those of the checkpoint if they cover the corpus or its head is
    kept, else those of all rows with a role, sorted.

    Raises:
        InvalidInput: The recipe's labels don't match a head that is kept, or there is only one label.
    """
    truth = corpus.manifest.labels()
    own = tuple(sorted({label for label, role in zip(truth, corpus.roles, strict=True) if label and role}))
    chosen = data.labels
    if not chosen and checkpoint is not None and (keep_head or set(own) <= set(checkpoint)):
        chosen = tuple(checkpoint)
    if keep_head and checkpoint is not None and chosen != tuple(checkpoint):
        raise InvalidInput(
            f"data.labels are {', '.join(chosen)}, those of the kept head {', '.join(checkpoint)}; leave data.labels "
            'out, or start with a fresh head (start.head = "fresh")'
        )
    chosen = chosen or own
    if len(chosen) < 2:
        raise InvalidInput(f"{corpus.manifest.name} has one label to learn, {', '.join(chosen)}; two are needed")
    return chosen
