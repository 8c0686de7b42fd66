"""Store scored batches in numbered Parquet files, and merge them in the manifest's order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..corpus import Manifest
from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import Folder
from .batches import WINDOW, BatchPlan
from .mesh import ScoredBatch
from .results import SCORE_PREFIX

_PART = "part-"
_META = b"speech_emotion_jax"


@dataclass(frozen=True)
class Throughput:
    """The clips that were scored and the time that it took.

    Attributes:
        clips: The number of clips.
        audio_seconds: The length of their recordings.
        seconds: The time taken, compilation included.
        compile_seconds: The time spent on compilation.
    """

    clips: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0

    def __add__(self, other: Throughput) -> Throughput:
        """Add two throughputs field by field."""
        return Throughput(
            self.clips + other.clips,
            self.audio_seconds + other.audio_seconds,
            self.seconds + other.seconds,
            self.compile_seconds + other.compile_seconds,
        )


@dataclass(frozen=True)
class ResultPart:
    """A file of scored batches."""

    name: str
    batches: tuple[int, ...]
    effort: Throughput


class ResultParts:
    """The part files in the folder of a run."""

    def __init__(self, folder: Folder, labels: Sequence[str]):
        """Open the parts in `folder` of a run that scores `labels`."""
        self.folder = folder
        self.labels = tuple(labels)
        self._known: dict[str, ResultPart] = {}  # A part never changes once it exists.

    def all(self) -> list[ResultPart]:
        """List the parts that exist.

        Raises:
            UnreadableInput: A part is broken.
        """
        names = [name for name in self.folder.names() if name.startswith(_PART)]
        for name in names:
            if name in self._known:
                continue
            try:
                meta = json.loads(pq.read_schema(self.folder.open_to_arrow(name)).metadata[_META])
                self._known[name] = ResultPart(name, tuple(meta["batches"]), Throughput(**meta["effort"]))
            except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
                raise UnreadableInput(
                    f"{self.folder.path(name)} is broken ({error}); remove it, and its clips will be scored again"
                ) from error
        return [self._known[name] for name in names]

    def save(self, batches: Sequence[ScoredBatch], effort: Throughput) -> None:
        """Write scored batches as one part, which appears in the folder whole or not at all."""
        rows = [(batch.number, result) for batch in batches for result in batch.results]
        results = [result for _, result in rows]
        meta = {"batches": [batch.number for batch in batches], "effort": vars(effort)}
        table = pa.table(
            {
                "batch": pa.array([number for number, _ in rows], pa.int64()),
                "number": pa.array([each.number for each in results], pa.int64()),
                "text": pa.array([each.text for each in results], pa.string()),
                "duration": pa.array([each.duration for each in results], pa.float64()),
                "truncated": pa.array([each.truncated for each in results], pa.bool_()),
                "error": pa.array([each.error for each in results], pa.string()),
                "scores": pa.array([each.scores for each in results], pa.list_(pa.float32())),
                "audio": pa.array([each.audio for each in results], pa.list_(pa.float32())),
                "spoken": pa.array([each.spoken for each in results], pa.list_(pa.float32())),
            }
        )
        first, last = batches[0].number, batches[-1].number
        with self.folder.writing(f"{_PART}{first:08d}-{last:08d}.parquet") as file:
            pq.write_table(table.replace_schema_metadata({_META: json.dumps(meta)}), file)

    def remove(self) -> None:
        """Remove all parts, once their content is in the final files."""
        for name in self.folder.names():
            if name.startswith(_PART):
                self.folder.remove(name)


@dataclass(frozen=True)
class OrderedResults:
    """The rows of all parts in the manifest's order, merged one window of the manifest at a time."""

    parts: ResultParts
    manifest: Manifest
    batches: BatchPlan

    @cached_property
    def _holders(self) -> dict[int, ResultPart]:
        """{batch: the part that holds it}. A batch in two parts, scored by two hosts, is taken once."""
        return {batch: part for part in self.parts.all() for batch in part.batches}

    def windows(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield, for each window, its rows in the manifest and the results of these rows.

        Raises:
            InvalidInput: The recordings have changed since the run was begun, so that batches hold other clips.
        """
        held: dict[str, pa.Table] = {}
        for window in range(self.batches.window_count()):
            numbers = self.batches.batches_of_window(window)
            needed = {self._holders[number].name for number in numbers}
            held = {name: held[name] if name in held else self._read(name) for name in needed}
            selected = []
            for name in sorted(needed):
                theirs = [number for number in numbers if self._holders[number].name == name]
                keep = np.isin(held[name].column("batch").to_numpy(), theirs)
                selected.append(held[name].filter(pa.array(keep)))
            rows = pa.concat_tables(selected).sort_by("number")
            start = window * WINDOW
            expected = np.arange(start, min(start + WINDOW, len(self.manifest)))
            if not np.array_equal(rows.column("number").to_numpy(), expected):
                raise InvalidInput(
                    f"recordings have changed since {self.parts.folder.name} was begun: their lengths, which decide "
                    "how clips are batched, are different; name another output, and leave the recordings unchanged"
                )
            yield self.manifest.table.slice(start, len(expected)), rows

    def predictions(self) -> Iterator[pa.Table]:
        """Yield the rows of predictions.parquet."""
        for given, results in self.windows():
            truth = replace(self.manifest, table=given).labels()
            yield _predictions(given, results, self.parts.labels, truth)

    def embeddings(self, *, audio: bool, text: bool) -> Iterator[pa.Table]:
        """Yield the rows of embeddings.parquet: ids and the pooled vectors of the inputs in use, null at errors."""
        for given, results in self.windows():
            columns = {"id": given.column(self.manifest.columns["id"])}
            if audio:
                columns["audio"] = results.column("audio")
            if text:
                columns["text"] = results.column("spoken")
            yield pa.table(columns)

    def _read(self, name: str) -> pa.Table:
        """Read a part."""
        return pq.ParquetFile(self.parts.folder.open_to_arrow(name)).read()


def _predictions(given: pa.Table, results: pa.Table, labels: Sequence[str], truth: Sequence[str | None]) -> pa.Table:
    """Combine rows of the manifest with their results and their labels after mapping."""
    scores = np.full((len(results), len(labels)), np.nan, np.float32)
    good = results.column("scores").is_valid().to_numpy()
    if good.any():
        scores[good] = np.stack(results.column("scores").drop_null().to_numpy())
    none = ~good
    top = np.where(none, 0, np.where(none[:, None], 0, scores).argmax(axis=1))  # the first of equal scores
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: given.column(name)
        for name in given.column_names
        if name != "text"  # replaced by the text that was scored
    }
    columns["text"] = results.column("text")
    columns["truth"] = pa.array(truth, pa.string())
    columns["top_label"] = pa.array(np.array(labels, object)[top], pa.string(), mask=none)
    columns["top_score"] = pa.array(scores[np.arange(len(scores)), top], pa.float32(), mask=none)
    for index, label in enumerate(labels):
        columns[SCORE_PREFIX + label] = pa.array(scores[:, index], pa.float32(), mask=none)
    for name in ("duration", "truncated", "error"):
        columns[name] = results.column(name)
    return pa.table(columns)


def write_tables(folder: Folder, name: str, tables: Iterator[pa.Table]) -> None:
    """Write tables one after another into a single Parquet file. Equal tables give equal bytes."""
    first = next(tables)
    with folder.writing(name) as file, pq.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))
