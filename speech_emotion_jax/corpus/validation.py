"""Check that every row of a manifest can be used, and report all problems at once.

Columns are checked in parts, and names are compared by their hashes. A million rows are never a million Python objects.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from ..errors import InvalidInput
from ..runtime.paths import find_path
from .manifest import CHUNK_ROWS, Manifest, is_inside, nearest_column

# Columns of the results, beside those that begin with "score_".
RESERVED = frozenset({"text", "truth", "top_label", "top_score", "duration", "truncated", "error"})
TRANSCRIBE = (
    "speech-emotion-jax transcribe --manifest FILE --output NEW.csv writes one with all texts; evaluate can do it "
    "itself with --whisper-model ID"
)
SHOWN = 5  # rows that are shown for each problem
LISTED = 64  # a folder of which a manifest names at least this many files is listed once


class Problem(NamedTuple):
    """One kind of problem.

    Attributes:
        what: The problem and its remedy.
        times: How often it occurs.
        first: The first occurrences.
        rows: Numbers of the rows that have the problem, if the other rows can be used without them.
    """

    what: str
    times: int
    first: list[str]
    rows: Sequence[int] = ()

    def __str__(self) -> str:
        """Return one line of the message."""
        more = f", and {self.times - len(self.first):,} more" if self.times > len(self.first) else ""
        return f"{self.what} ({self.times:,}): {', '.join(self.first)}{more}"


def validate(
    manifest: Manifest,
    *,
    audio_root: str | None,
    needs_audio: bool,
    needs_text: bool,
    labels: Sequence[str],
    strict: bool = True,
) -> list[Problem]:
    """Check that every row of a manifest can be used.

    Args:
        manifest: The manifest.
        audio_root: Folder of the recordings, see `locate`.
        needs_audio: Whether every row needs a recording.
        needs_text: Whether every row needs a text.
        labels: Labels of the checkpoint.
        strict: Whether rows without a file or a text are refused. Else they are returned, unless all rows are such.

    Returns:
        Problems of rows that can be left out.

    Raises:
        InvalidInput: There are other problems. The first line of the message counts them, and each further line has
            one kind of problem, its first rows and its remedy.
    """
    problems = [
        *_column_problems(manifest, needs_audio, needs_text),
        *_id_problems(manifest),
        *(_audio_problems(manifest, audio_root) if needs_audio else ()),
        *(_text_problems(manifest) if needs_text else ()),
        *_label_problems(manifest, labels),
    ]
    pa.default_memory_pool().release_unused()
    bad = {row for problem in problems for row in problem.rows}
    if not strict and len(bad) < len(manifest) and all(problem.rows for problem in problems):
        return problems
    if problems:
        kinds = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InvalidInput(
            "\n  ".join([f"{manifest.name} can't be used: {kinds}; nothing was computed", *map(str, problems)])
        )
    return []


def _column_problems(manifest: Manifest, needs_audio: bool, needs_text: bool) -> Iterator[Problem]:
    """Find missing columns."""
    fields, names = manifest.columns, manifest.table.column_names
    missing = [
        *(["filename"] if needs_audio and not {"filename", "shard"} & fields.keys() else []),
        *(["record"] if "shard" in fields and "record" not in fields and needs_audio else []),
        *(["transcription"] if needs_text and "transcription" not in fields else []),
    ]
    if missing:
        there = f"there are {', '.join(names[:-1] if manifest.has_generated_id else names)}"
        text = f"; {TRANSCRIBE}" if "transcription" in missing else ""
        advice = f"{_embedded(manifest)}{there}; name others with --columns {_example(missing, names)}{text}"
        yield Problem(f"missing columns; {advice}", len(missing), missing)


def _example(missing: Sequence[str], names: Sequence[str]) -> str:
    """Return what to give to --columns, with the column that is named most like a missing one."""
    near = {field: nearest_column(field, names) for field in missing}
    found = [f"{field}={column}" for field, column in near.items() if column is not None]
    return ",".join(found) or "FIELD=COLUMN"


def _embedded(manifest: Manifest) -> str:
    """Return a sentence about recordings that are cells of the table, as in tables of the Hugging Face hub, or ""."""
    for field in manifest.table.schema:
        kind = field.type
        if pa.types.is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            return f"the recordings in the column {field.name!r} are not read; write them as files and name these; "
    return ""


def is_reserved(name: str) -> bool:
    """Return whether a column is one of the results."""
    return name in RESERVED or name.startswith("score_")


def rename_clashes(manifest: Manifest) -> tuple[Manifest, dict[str, str]]:
    """Rename the columns that are named like columns of the results: duration becomes manifest_duration.

    A column `text` that is the transcription keeps its name, as the results have its texts.

    Returns:
        The manifest, and {old name: new name} of the columns that were renamed.
    """
    names, columns = manifest.table.column_names, dict(manifest.columns)
    new: dict[str, str] = {}
    for name in names:
        if is_reserved(name) and (name, columns.get("transcription")) != ("text", "text"):
            other = "manifest_" + name
            while other in names or other in new.values():
                other = "manifest_" + other
            new[name] = other
    if not new:
        return manifest, new
    renamed = replace(
        manifest,
        table=manifest.table.rename_columns([new.get(name, name) for name in names]),
        columns={field: new.get(column, column) for field, column in columns.items()},
    )
    return renamed, new


def _id_problems(manifest: Manifest) -> Iterator[Problem]:
    """Find rows without an id, and duplicate ids."""
    ids = manifest.column("id")
    empty = _concatenate(pc.equal(part.fill_null(""), "") for part in _parts(ids))  # pyright: ignore
    yield from _rows_problem(manifest, "rows without an id", empty)
    hashes = _hashes(ids)
    again = np.ones(len(hashes), bool)
    again[np.unique(hashes, return_index=True)[1]] = False
    again &= ~empty
    if again.any():
        shown = [
            f"row {manifest.file_rows[each]}: {ids[each].as_py()}"
            f" (as row {manifest.file_rows[np.argmax(hashes == hashes[each])]})"
            for each in np.flatnonzero(again)[:SHOWN].tolist()
        ]
        column = manifest.columns["id"]
        advice = f"give each row its own in the column {column}, or name another with --columns id=COLUMN"
        yield Problem(f"duplicate ids; {advice}", int(again.sum()), shown)


def _audio_problems(manifest: Manifest, audio_root: str | None) -> Iterator[Problem]:
    """Find missing files, and invalid records, cuts and durations."""
    fields = manifest.columns
    if audio_root is not None and not os.path.isdir(audio_root):
        yield Problem(
            "the audio root is not a folder; name the folder that the filenames are relative to", 1, [audio_root]
        )
    elif "shard" in fields or "filename" in fields:
        field = "shard" if "shard" in fields else "filename"
        names = manifest.column(field)
        empty, outside, missing = _absent_files(names, audio_root)
        hashes = _hashes(names)
        gone = np.isin(hashes, hashes[missing])
        yield from _rows_problem(manifest, f"rows without a {field}", empty, can_go=empty)
        where = "; name files below it, or give --audio-root a folder above them; .. is not followed"
        yield from _rows_problem(manifest, f"{field}s that leave the audio root{where}", outside, names)
        where = f" under {audio_root}" if audio_root else ""
        yield from _rows_problem(manifest, f"missing files{where}, each counted once", missing, names, gone)
    if "channel" in fields:
        wrong = _concatenate(pc.less(chunk.fill_null(0), 0) for chunk in manifest.column("channel").chunks)  # pyright: ignore
        yield from _rows_problem(manifest, "channels that are not a number from 0", wrong, manifest.column("channel"))
    if "shard" in fields and "record" in fields:
        wrong = _concatenate(pc.less(chunk.fill_null(-1), 0) for chunk in manifest.column("record").chunks)  # pyright: ignore
        yield from _rows_problem(manifest, "records that are not a number from 0", wrong, manifest.column("record"))
    start, end, seconds = (
        manifest.column(field).to_numpy() if field in fields else None for field in ("start", "end", "seconds")
    )
    if start is not None or end is not None:
        begins = np.zeros(len(manifest)) if start is None else _filled(manifest.column("start"), 0.0)
        ends = np.full(len(manifest), np.inf) if end is None else _filled(manifest.column("end"), np.inf)
        given = np.zeros(len(manifest), bool) if end is None else _valid(manifest.column("end"))
        wrong = ~((begins >= 0) & (begins < ends) & (np.isfinite(ends) | ~given))
        first = [
            f"row {manifest.file_rows[each]}: {begins[each]:.15g} to {ends[each]:.15g}"
            for each in np.flatnonzero(wrong)[:SHOWN]
        ]
        if first:
            yield Problem("cuts that are not 0 <= start < end", int(wrong.sum()), first)
    if seconds is not None:
        stated = _valid(manifest.column("seconds"))
        wrong = stated & ~((seconds > 0) & (seconds < np.inf))
        yield from _rows_problem(
            manifest, "seconds that are not a positive duration", wrong, manifest.column("seconds")
        )


def _text_problems(manifest: Manifest) -> Iterator[Problem]:
    """Find rows without a text."""
    if "transcription" not in manifest.columns:
        return
    empty = _concatenate(
        pc.equal(pc.utf8_trim_whitespace(part.fill_null("")), "")  # pyright: ignore
        for part in _parts(manifest.column("transcription"))
    )
    yield from _rows_problem(manifest, f"rows without a text; {TRANSCRIBE}", empty, can_go=empty)


def _label_problems(manifest: Manifest, labels: Sequence[str]) -> Iterator[Problem]:
    """Find labels that the checkpoint lacks, and labels of the label map that the manifest lacks."""
    counts: Counter[str] = Counter(label for label in manifest.labels() if label is not None)
    unknown = sorted((label for label in counts if label not in labels), key=lambda label: (-counts[label], label))
    if unknown:
        advice = f"the checkpoint has {', '.join(labels)}; map them with --label-map FROM=TO, or to nothing with FROM="
        shown = [f"{label} ({counts[label]:,} rows)" for label in unknown[:SHOWN]]
        yield Problem(f"unknown labels; {advice}", len(unknown), shown)
    if manifest.unused_labels:
        shown = list(manifest.unused_labels[:SHOWN])
        yield Problem("labels of the label map that no row has", len(manifest.unused_labels), shown)


def _rows_problem(
    manifest: Manifest,
    what: str,
    wrong: Bool[np.ndarray, " rows"],
    names: pa.ChunkedArray | None = None,
    can_go: Bool[np.ndarray, " rows"] | None = None,
) -> Iterator[Problem]:
    """Yield a problem if any rows have it.

    Args:
        manifest: The manifest.
        what: The problem and its remedy.
        wrong: Which rows have the problem.
        names: What to show of a row beside its number in the file.
        can_go: Which rows can be left out, if any.
    """
    places = np.flatnonzero(wrong)
    if len(places):
        rows = [f"row {manifest.file_rows[each]}" for each in places[:SHOWN]]
        if names is not None:
            rows = [f"{row}: {names[int(each)].as_py()}" for row, each in zip(rows, places[:SHOWN], strict=True)]
        yield Problem(what, len(places), rows, () if can_go is None else np.flatnonzero(can_go).tolist())


def _concatenate(masks: Iterator[pa.Array]) -> Bool[np.ndarray, " rows"]:
    return np.concatenate([mask.to_numpy(zero_copy_only=False) for mask in masks])


def _filled(column: pa.ChunkedArray, value: float) -> np.ndarray:
    return column.fill_null(value).to_numpy()


def _valid(column: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
    return column.is_valid().to_numpy()


def _parts(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """Yield a column in parts that are small enough for Python objects, dictionaries decoded."""
    for chunk in column.chunks:
        for begin in range(0, len(chunk), CHUNK_ROWS):
            part = chunk.slice(begin, CHUNK_ROWS)
            yield part.dictionary_decode() if isinstance(part, pa.DictionaryArray) else part


def _hashes(column: pa.ChunkedArray) -> Int[np.ndarray, " rows"]:
    """Return a 64-bit hash of each cell. Among a million different cells, two have the same hash with chance 3e-8."""
    values = (hash(value) for part in _parts(column) for value in part.to_pylist())
    return np.fromiter(values, np.int64, len(column))


def _absent_files(
    names: pa.ChunkedArray, audio_root: str | None
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Find the rows whose file is not there.

    A folder of which many files are named is listed once, since a file server lists thousands of names as fast as it
    looks up one. Only files that the list lacks are then looked up one by one.

    Returns:
        Three masks: the rows without a file, the rows whose file lies outside the audio root, and the rows that are the
        first to name a missing file.
    """
    empty, outside, missing = (np.zeros(len(names), bool) for _ in range(3))
    first = np.zeros(len(names), bool)
    first[np.unique(_hashes(names), return_index=True)[1]] = True
    folders: dict[str, int] = {}
    folder = np.full(len(names), -1, np.int32)
    base = np.zeros(len(names), np.int64)
    row = -1
    for part in _parts(names):
        for name in part.to_pylist():
            row += 1
            if not name:
                empty[row] = True
            elif not is_inside(name, audio_root):
                outside[row] = True
            elif first[row]:
                above, _, below = name.rpartition("/")
                folder[row] = folders.setdefault(above + "/" if name.startswith("/") else above, len(folders))
                base[row] = hash(below)
    root = audio_root or ""
    order = np.argsort(folder, kind="stable")
    bounds = np.searchsorted(folder[order], np.arange(len(folders) + 1))
    for number, above in enumerate(folders):
        members = order[bounds[number] : bounds[number + 1]]
        if len(members) >= LISTED:
            members = members[~np.isin(base[members], _listed(find_path(os.path.join(root, above)) or "."))]
        for each in members.tolist():
            missing[each] = not os.path.isfile(find_path(os.path.join(root, names[each].as_py())))
    return empty, outside, missing


def _listed(folder: str) -> Int[np.ndarray, " files"]:
    """Return the hashes of the names of the files in a folder, in composed letters as a manifest's."""
    try:
        with os.scandir(folder) as entries:
            return np.fromiter(
                (hash(unicodedata.normalize("NFC", entry.name)) for entry in entries if entry.is_file()), np.int64
            )
    except OSError:
        return np.empty(0, np.int64)
