"""Read the folder of a finished bulk run: which clips were scored, their scores, and their true labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from ..corpus import is_reserved, nearest_column
from ..errors import InvalidInput, UnreadableInput
from ..runtime.storage import Folder

RECORD = "run.json"
PREDICTIONS = "predictions.parquet"
PREDICTIONS_CSV = "predictions.csv"
SCORE_PREFIX = "score_"  # the column of a label is named score_<label>
SCHEMA = 1
_LABEL_LIKE = re.compile("emo[ct]i|label|class|clase|etiqueta|mood|sentiment|target", re.IGNORECASE)


@dataclass(frozen=True)
class EvaluationRun:
    """A finished run of `evaluate`.

    Attributes:
        name: The folder, as the user named it.
        record: The content of run.json: "labels" in the checkpoint's order, "columns" ({field: column of the
            manifest}), "label_map" and "settings".
        table: The content of predictions.parquet, one row per clip in the manifest's order.
    """

    name: str
    record: Mapping[str, Any]
    table: pa.Table

    @classmethod
    def read(cls, path: str) -> EvaluationRun:
        """Read the folder of a run.

        Raises:
            UnreadableInput: There is no run in the folder, it is unfinished, or its files are broken.
        """
        folder = Folder.open(path)
        missing = [name for name in (RECORD, PREDICTIONS) if not folder.holds(name)]
        if missing:
            raise UnreadableInput(
                f"{path} is no finished run: it has no {' and no '.join(missing)}; finish it with the command evaluate"
            )
        try:
            record = json.loads(folder.read(RECORD))
            table = pq.ParquetFile(folder.open_to_arrow(PREDICTIONS)).read()
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']}")
            for label in record["labels"]:
                table.column(SCORE_PREFIX + label)
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise UnreadableInput(f"{path} can't be read ({error}); score the corpus again") from error
        return cls(path, record, table)

    @property
    def labels(self) -> tuple[str, ...]:
        """The checkpoint's labels, in its order."""
        return tuple(self.record["labels"])

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "clips labels"]:
        """The scores of each clip, float64; NaN for clips with an error."""
        columns = [self.table.column(SCORE_PREFIX + label).to_numpy() for label in self.labels]
        return np.stack(columns, axis=1).astype(np.float64)

    @cached_property
    def scored(self) -> Bool[np.ndarray, " clips"]:
        """Whether each clip was scored without an error."""
        return self.table.column("error").is_null().to_numpy()

    @cached_property
    def truth(self) -> list[str | None]:
        """The true label of each clip after the run's label map; None for clips without a label."""
        column = self.record["columns"].get("label")
        if column is None:
            return [None] * len(self.table)
        mapped = {**self.record["label_map"], None: None, "": None}
        return [mapped.get(label, label) or None for label in self.table.column(column).to_pylist()]

    @property
    def ids(self) -> list[str]:
        """The id of each clip."""
        return [str(each) for each in self.column(self.record["columns"]["id"])]

    def column(self, name: str) -> list[Any]:
        """Return a column of the manifest or of the predictions.

        Raises:
            InvalidInput: There is no such column. The message lists those that exist.
        """
        if name not in self.table.column_names:
            raise InvalidInput(f"{self.name} has no column {name!r}; there are {', '.join(self.table.column_names)}")
        return self.table.column(name).to_pylist()

    @property
    def no_truth(self) -> str | None:
        """Why there is nothing to measure against, in one sentence, or None if a clip has a label."""
        if any(self.truth):
            return None
        if column := self.record["columns"].get("label"):
            return f"No truth: the column {column} has no label"
        names = [name for name in self.table.column_names if not is_reserved(name)]
        near = nearest_column("label", names) or next((name for name in names if _LABEL_LIKE.search(name)), "COLUMN")
        return f"No truth: there is no column label; there are {', '.join(names)} (--columns label={near})"


def claim_folder(folder: Folder, name: str, record: Mapping[str, Any]) -> None:
    """Reserve the folder for the run that `record` describes.

    The first call writes the record into the file `name`. A later call continues the run if its record is the same.

    Raises:
        InvalidInput: The folder holds another run, or files that are not a run. The message lists the differences.
    """
    if not folder.holds(name):
        if others := folder.names():
            raise InvalidInput(f"{folder.name} is not empty and holds no run (it has {others[0]}); name another output")
        folder.make()
        folder.write(name, json.dumps(record, indent=1, ensure_ascii=False).encode())
        return
    try:
        begun = json.loads(folder.read(name))
    except ValueError as error:
        raise InvalidInput(f"{folder.path(name)} is broken ({error}); name another output") from error
    differences = [
        f"{field}: {json.dumps(then, ensure_ascii=False)} then, {json.dumps(now, ensure_ascii=False)} now"
        for field, then, now in _differences(begun, json.loads(json.dumps(record)))
    ]
    if differences:
        raise InvalidInput(
            f"{folder.name} was begun with other settings; use the same settings, or name another output\n  "
            + "\n  ".join(differences)
        )


def _differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) of everything that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield name, then, now


def first_names(names: Sequence[str]) -> str:
    """Join the first three names, for a message."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
