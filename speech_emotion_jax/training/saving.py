"""The states of a run on disk: the last ones and the best one, written beside the training, each whole or not there.

An Orbax checkpoint a step holds what a step changes (`State`) and, as its metadata, where the run stands (`Standing`).
What is frozen is in the checkpoint that the run started from, and not saved again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ..errors import UnreadableInput
from ..runtime.atomic import check_disk_space
from ..runtime.orbax_arrays import as_os_error, quiet_orbax
from .step import TrainState


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands after a step.

    `reader` is the Grain iterator's state. `best` is the best validation's value so far and `best_step` its step, None
    before the first; `waiting` counts the validations since then. `ended` says that no step is to follow.
    """

    reader: dict[str, Any]
    best: float | None = None
    best_step: int | None = None
    waiting: int = 0
    ended: bool = False


class StateStore:
    """The checkpoints in a folder. Close it, or use it as a context, so that the last one is written to its end."""

    def __init__(self, folder: Path, keep_last: int):
        policies: Any = ocp.training.preservation_policies
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_orbax():
            self._checkpointer = ocp.training.Checkpointer(
                str(folder.absolute()),  # pyright: ignore[reportArgumentType]
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep_last),
                        policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                cleanup_tmp_directories=True,
            )

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def latest(self) -> int | None:
        """The step of the last state there is."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, standing: RunStatus, metric: float | None) -> None:
        """Write the state after `step` steps, in the background. `metric` is the validation's, where there was one.

        Waits for the one before. Raises OSError where the disk is full; what was there before stays.
        """
        with _writing():
            self.wait()
            check_disk_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._checkpointer.save_async(
                step,
                state._asdict(),
                force=True,
                overwrite=step == self.latest(),  # a validation at the step that was just saved
                metrics=None if metric is None else {"value": metric, "step": step},
                custom_metadata=asdict(standing),
            )

    def wait(self) -> None:
        """Until what is being written is there. Raises OSError where that failed."""
        with _writing():
            self._checkpointer.wait()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, RunStatus]:
        """The state after a step, in the shapes and on the devices of `like`.

        Raises UnreadableInput where it is broken.
        """
        try:
            with quiet_orbax():
                state = self._checkpointer.load(step, like._asdict())
                standing: Any = self._checkpointer.metadata(step).custom_metadata
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise UnreadableInput(
                f"{self.folder}/{step} can't be read ({str(error).splitlines()[0][:200]}); remove it, and the run goes "
                "on from the state before"
            ) from error
        return TrainState(**state), RunStatus(**standing)

    def close(self) -> None:
        with _writing():
            self._checkpointer.close()


def _rank(metrics: Any) -> tuple[float, int]:
    """The higher value is better and, of equal ones, the earlier."""
    return metrics["value"], -int(np.asarray(metrics["step"]))


@contextmanager
def _writing() -> Iterator[None]:
    with quiet_orbax():
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise as_os_error(error) from error
