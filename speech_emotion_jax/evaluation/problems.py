"""Tell of the rows that can't be scored and of the columns that are renamed, before anything is scored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import pyarrow as pa

from ..corpus import Manifest, Problem, write_csv
from ..runtime.storage import Folder

PROBLEMS = "problems.csv"


def note_clashes(manifest: Manifest, renamed: Mapping[str, str]) -> None:
    """Tell which columns of a manifest have another name in the results."""
    if renamed:
        pairs = ", ".join(f"{old} as {new}" for old, new in list(renamed.items())[:5])
        more = f", and {len(renamed) - 5} more" if len(renamed) > 5 else ""
        warnings.warn(
            f"{manifest.name} has columns that are named like results; the results have {pairs}{more}", stacklevel=3
        )


def note_problems(problems: Sequence[Problem], folder: Folder, rows: int) -> None:
    """Tell which rows get an error."""
    if problems:
        bad = len({row for problem in problems for row in problem.rows})
        kinds = "; ".join(map(str, problems))
        warnings.warn(
            f"{bad:,} of {rows:,} rows get an error, see {PROBLEMS} in {folder.name} (--strict refuses them): {kinds}",
            stacklevel=3,
        )


def write_problems(folder: Folder, manifest: Manifest, problems: Sequence[Problem]) -> None:
    """Write all rows that have a problem: their number in the manifest's file, their id and the problem."""
    found = sorted((row, problem.what.partition(";")[0]) for problem in problems for row in problem.rows)
    ids = manifest.column("id")
    table = pa.table(
        {
            "row": [int(manifest.file_rows[row]) for row, _ in found],
            "id": pa.array([ids[row].as_py() for row, _ in found], pa.string()),
            "problem": [what.removesuffix(", each counted once") for _, what in found],
        }
    )
    with folder.writing(PROBLEMS) as file:
        write_csv(table, file)
