"""The learning curve of a run. It is written with each saved state, and continued when the run is resumed.

Files in the output folder:

- history.parquet: one row per step, see `History.add`; valid_... are null without a validation.
- curves.png: the losses and the validation metrics.
- tensorboard/: the same numbers as TensorBoard events, if the folder is on a disk.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UnreadableInput
from ..runtime.compat import tensorboard_protocol
from ..runtime.plots import curves
from ..runtime.storage import Folder

HISTORY, CURVES, TENSORBOARD = "history.parquet", "curves.png", "tensorboard"
SHOWN_SECONDS = 30.0  # between what TensorBoard gets to see

TRAIN = ("loss", "accuracy", "gradient_norm", "learning_rate", "clips", "audio_seconds", "seconds")
VALID = ("loss", "accuracy", "uar", "macro_f1")
WHOLE = ("step", "clips")  # the columns that are no float
SCHEMA = pa.schema(
    [(name, pa.int64() if name in WHOLE else pa.float64()) for name in ("step", "epoch", *TRAIN)]
    + [(f"valid_{name}", pa.float64()) for name in VALID]
)


class History:
    """The metrics of the steps of a run. Of several hosts the first one writes."""

    def __init__(self, folder: Folder):
        """Create an empty history."""
        self._folder = folder
        self._columns: dict[str, list[float | None]] = {name: [] for name in SCHEMA.names}
        self._events: _Events | None = None

    @classmethod
    def resume(cls, folder: Folder, step: int) -> History:
        """Read the history of the steps up to `step`; later steps are dropped.

        Raises:
            UnreadableInput: The history is broken.
        """
        history = cls(folder)
        if folder.holds(HISTORY):
            try:
                table = pq.ParquetFile(folder.open_to_arrow(HISTORY)).read().select(SCHEMA.names).cast(SCHEMA)
            except (KeyError, pa.ArrowException) as error:
                raise UnreadableInput(
                    f"{folder.path(HISTORY)} can't be read ({error}); remove it, and the curve begins anew"
                ) from error
            kept = table.filter(pa.array(table.column("step").to_numpy() <= step, pa.bool_()))
            history._columns = kept.to_pydict()
        if folder.on_disk and jax.process_index() == 0:
            history._events = _Events(Path(folder.root, TENSORBOARD), first=step + 1)
        return history

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._columns["step"])

    def add(
        self,
        *,
        step: int,
        epoch: float,
        loss: float,
        accuracy: float,
        gradient_norm: float,
        learning_rate: float,
        clips: int,
        audio_seconds: float,
        seconds: float,
    ) -> None:
        """Record a step.

        Args:
            step: The number of the step, from 1.
            epoch: The number of epochs after the step.
            loss: The mean loss.
            accuracy: The accuracy on the step's clips, as a fraction.
            gradient_norm: The norm of the gradient.
            learning_rate: The learning rate.
            clips: The number of clips.
            audio_seconds: The length of their recordings.
            seconds: The time that the step took.
        """
        row = {
            "step": step,
            "epoch": epoch,
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate,
            "clips": clips,
            "audio_seconds": audio_seconds,
            "seconds": seconds,
        }
        for name, column in self._columns.items():
            column.append(row.get(name))
        if self._events is not None:
            self._events.add(step, {f"train/{name}": row[name] for name in TRAIN} | {"epoch": epoch})

    def validated(self, step: int, found: Mapping[str, float]) -> None:
        """Record the loss, accuracy, uar and macro_f1 of a validation after the last added step."""
        if not len(self) or self._columns["step"][-1] != step:
            raise ValueError(f"step {step} is validated, and it is not the last step of the history")
        for name in VALID:
            self._columns[f"valid_{name}"][-1] = found[name]
        if self._events is not None:
            self._events.add(step, {f"valid/{name}": found[name] for name in VALID})

    def table(self) -> pa.Table:
        """Return all steps."""
        return pa.table(self._columns, schema=SCHEMA)

    def write(self) -> None:
        """Write the files, each whole or not at all."""
        if jax.process_index() != 0 or not len(self):
            return
        if self._events is not None:
            self._events.write()
        table = self.table()
        with self._folder.writing(HISTORY) as file:
            pq.write_table(table, file)
        validated = table.filter(table.column("valid_loss").is_valid())
        self._folder.write(
            CURVES,
            curves(
                table.column("step").to_numpy(),
                table.column("loss").to_numpy(),
                validated.column("step").to_numpy(),
                validated.column("valid_loss").to_numpy(),
                {
                    "macro-F1": validated.column("valid_macro_f1").to_numpy(),
                    "UAR": validated.column("valid_uar").to_numpy(),
                },
            ),
        )


class _Events:
    """A file of TensorBoard's events, begun anew with each start of a run.

    It is appended to at times and closed again, so a process that is killed leaves nothing open. Its beginning tells
    TensorBoard to forget what earlier files have of the steps from `first` on.
    """

    def __init__(self, folder: Path, first: int):
        self._protocol = tensorboard_protocol()
        event, session = self._protocol.Event, self._protocol.SessionLog
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._waiting = [
            event(wall_time=time.time(), file_version="brain.Event:2"),
            event(wall_time=time.time(), step=first, session_log=session(status=session.START)),
        ]
        self._next = 0.0

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        event, summary = self._protocol.Event, self._protocol.Summary
        values = [summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._waiting.append(event(wall_time=time.time(), step=step, summary=summary(value=values)))
        if time.monotonic() > self._next:
            self.write()

    def write(self) -> None:
        """Append what waits, each event framed as a TFRecord: its length, and a checksum of that and of itself."""
        frames = []
        for event in self._waiting:
            content = event.SerializeToString()
            length = struct.pack("<Q", len(content))
            frames += [length, struct.pack("<I", self._protocol.checksum(length)), content]
            frames += [struct.pack("<I", self._protocol.checksum(content))]
        with open(self._path, "ab") as file:
            file.write(b"".join(frames))
        self._waiting = []
        self._next = time.monotonic() + SHOWN_SECONDS
