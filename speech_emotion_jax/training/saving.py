"""Save the states of a training run: the last ones and the best one, in the background.

An Orbax checkpoint per step holds what a step changes (`TrainState`) and, as metadata, the progress of the run
(`RunStatus`). Frozen parameters are not saved; they are in the checkpoint that the run started from.
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
from ..runtime.compat import as_os_error
from ..runtime.orbax_arrays import quiet_orbax
from .step import TrainState


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run after a step.

    Attributes:
        reader: The state of the Grain iterator.
        best: The best validation metric so far; None before the first validation.
        best_step: The step of the best validation.
        waiting: The number of validations since the best one.
        ended: Whether no step follows.
    """

    reader: dict[str, Any]
    best: float | None = None
    best_step: int | None = None
    waiting: int = 0
    ended: bool = False


class StateStore:
    """The saved states in a folder. Close it, or use it as a context manager, to finish the last write."""

    def __init__(self, folder: Path, keep_last: int):
        """Open the folder, which is created if necessary, and keep the last `keep_last` states and the best one."""
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
        """Return the store."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the store."""
        self.close()

    def latest(self) -> int | None:
        """Return the step of the latest state, or None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, status: RunStatus, metric: float | None) -> None:
        """Write the state after a step in the background, after the previous write has finished.

        Args:
            step: The number of steps taken.
            state: The state.
            status: The progress of the run.
            metric: The validation metric of this step, higher is better; None without a validation.

        Raises:
            OSError: The disk is full. Earlier states stay intact.
        """
        with _orbax_errors():
            self.wait()
            check_disk_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._checkpointer.save_async(
                step,
                state._asdict(),
                force=True,
                overwrite=step == self.latest(),  # This step was saved already, before its validation.
                metrics=None if metric is None else {"value": metric, "step": step},
                custom_metadata=asdict(status),
            )

    def wait(self) -> None:
        """Wait until the current write has finished.

        Raises:
            OSError: The write failed.
        """
        with _orbax_errors():
            self._checkpointer.wait()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, RunStatus]:
        """Load the state after a step.

        Args:
            step: The step.
            like: A state with the shapes and shardings to load into.

        Raises:
            UnreadableInput: The state is broken.
        """
        try:
            with quiet_orbax():
                state = self._checkpointer.load(step, like._asdict())
                status: Any = self._checkpointer.metadata(step).custom_metadata
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise UnreadableInput(
                f"{self.folder}/{step} can't be read ({str(error).splitlines()[0][:200]}); remove it, and the run"
                " continues "
                "from the state before it"
            ) from error
        return TrainState(**state), RunStatus(**status)

    def close(self) -> None:
        """Finish the current write and close Orbax's checkpointer."""
        with _orbax_errors():
            self._checkpointer.close()


def _rank(metrics: Any) -> tuple[float, int]:
    """Rank states by their metric; of equal metrics the earlier step is better."""
    return metrics["value"], -int(np.asarray(metrics["step"]))


@contextmanager
def _orbax_errors() -> Iterator[None]:
    """Turn errors of Orbax into OSError."""
    with quiet_orbax():
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise as_os_error(error) from error
