"""The training loop: steps, validation, saving, and stopping at the end, on a signal, or on divergence."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..errors import Interrupted, InvalidInput
from ..evaluation import measure
from ..runtime.compat import multihost_utils
from ..runtime.progress import progress
from ..runtime.sharding import on_mesh
from .batches import StepBatches, length_sorted_batches
from .clips import DeviceFeed
from .history import History
from .recipe import LoopConfig
from .saving import RunStatus, StateStore
from .step import Parameters, StepMetrics, TrainingMethod, TrainState, jit_step

logger = logging.getLogger("speech_emotion_jax")

DIVERGED = 20.0  # a loss of this many times that of a guess counts as divergence
LOG_SECONDS = 30.0


@dataclass
class TrainingLoop:
    """All that the loop works with. `names` are the training clips' ids, by their numbers."""

    method: TrainingMethod
    settings: LoopConfig
    rate: Callable[[int], float]
    feed: DeviceFeed
    steps: StepBatches
    validation: Validator
    frozen: Parameters
    names: Sequence[str]
    saves: StateStore
    history: History

    def run(self, state: TrainState, standing: RunStatus | None) -> RunStatus:
        """Train from a state to the end of the run.

        Args:
            state: The state to start from.
            standing: The progress at that state; None at the beginning of a run.

        Raises:
            Interrupted: SIGTERM arrived. The state is saved.
            InvalidInput: The loss diverged or is not finite. The message names the clips; states saved before are
                valid.
        """
        begun = int(state.step)
        reader = self.feed.ahead(self.steps, lambda step: [self.settings.seed, step])
        if standing is None:
            standing = RunStatus(reader.get_state())
        elif not standing.ended:
            reader.set_state(standing.reader)
        with _asked_to_stop() as asked, progress("Training", len(self.steps)) as advance:
            advance(begun)
            watch = _Watch(self, advance)
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
            program = on_mesh(jit_step(self.method, shardings, self.feed.mesh), self.feed.mesh)
            key = jax.random.key(self.settings.seed)
            for step in range(begun, len(self.steps)):
                if standing.ended:
                    break
                batch = self.feed.put(next(reader))
                state, measured = program(state, self.frozen, batch, jax.random.fold_in(key, step))
                watch.started(step, measured)
                standing = replace(standing, reader=_plain(reader.get_state()))
                standing = self._after(step + 1, state, standing, watch, asked)
        return standing

    def _after(
        self, done: int, state: TrainState, standing: RunStatus, watch: _Watch, asked: Callable[[int], bool]
    ) -> RunStatus:
        """Validate and save if it is time to."""
        last = done == len(self.steps)
        every = self.settings.validate_every or self.steps.per_epoch
        stop = asked(done)
        metric = None
        if last or done % every == 0:
            watch.finish()
            metric, standing = self._validated(done, state, standing)
        if metric is not None or stop or done % (self.settings.save_every or self.steps.per_epoch) == 0:
            watch.finish()  # A state that is not finite must not be saved.
            self.history.write()
            self.saves.save(done, state, standing, metric)
        if stop and not standing.ended:
            self.saves.wait()
            raise Interrupted(f"stopped after step {done}, which is saved; run the same command to continue")
        return standing

    def _validated(self, done: int, state: TrainState, standing: RunStatus) -> tuple[float, RunStatus]:
        """Validate, and update the progress of the run."""
        found = self.validation.measure(state.average or state.learning, self.frozen)
        self.history.validated(done, {name: found[name] for name in ("loss", "accuracy", "uar", "macro_f1")})
        value = -found["loss"] if self.settings.metric == "loss" else found[self.settings.metric]  # higher is better
        logger.info("step %d: validation macro-F1 %.4f, loss %.4f", done, found["macro_f1"], found["loss"])
        if standing.best is None or value > standing.best:
            standing = replace(standing, best=value, best_step=done, waiting=0)
        else:
            standing = replace(standing, waiting=standing.waiting + 1)
        tired = 0 < self.settings.patience <= standing.waiting
        if tired:
            logger.info(
                "%s has not improved for %d validations: training stops", self.settings.metric, standing.waiting
            )
        return value, replace(standing, ended=tired or done == len(self.steps))


@dataclass
class Validator:
    """Scores clips that are not trained on."""

    method: TrainingMethod
    feed: DeviceFeed
    truth: Sequence[str]
    batch_size: int

    def __post_init__(self) -> None:
        """Prepare the program."""
        everywhere = NamedSharding(self.feed.mesh, PartitionSpec())
        program = jax.jit(
            lambda learning, frozen, batch: self.method.probabilities(learning | frozen, batch),
            out_shardings=everywhere,
        )
        self._program = on_mesh(program, self.feed.mesh)

    def measure(self, learning: Parameters, frozen: Parameters) -> dict[str, Any]:
        """Return the metrics of `evaluation.measure` and "loss", the mean of -log p of the true labels."""
        clips = self.feed.clips
        batches = length_sorted_batches(clips.frames(), clips.tokens(), self.batch_size)
        probabilities = np.full((len(self.truth), len(self.method.config.labels)), np.nan, np.float32)
        for batch, arrays in zip(batches, self.feed.ahead(batches, lambda number: None), strict=True):
            found = np.asarray(self._program(learning, frozen, self.feed.put(arrays)))
            probabilities[batch.clips[: batch.real]] = found[: batch.real]
        readable = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
        truth = [self.truth[clip] for clip in readable.tolist()]
        metrics = measure(truth, probabilities[readable], self.method.config.labels, resamples=1)
        return {**metrics, "loss": metrics["log_loss"]}


class _Watch:
    """Checks and records the metrics of a step while the next step runs."""

    def __init__(self, fit: TrainingLoop, advance: Callable[..., None]):
        self._fit = fit
        self._advance = advance
        self._open: tuple[int, StepMetrics] | None = None
        self._before = self._logged = time.perf_counter()
        self._heard = 0.0

    def started(self, step: int, measured: StepMetrics) -> None:
        """Finish the previous step, and remember that a step was started."""
        self.finish()
        self._open = step, measured

    def finish(self) -> None:
        """Wait for the running step, if there is one, and record its metrics."""
        if self._open is None:
            return
        fit, (step, measured) = self._fit, self._open
        self._open = None
        loss, norm, accuracy = (float(each) for each in measured)
        batch = fit.steps[step]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(step, f"the loss is {loss}, the gradient's norm {norm}")
        if loss > DIVERGED * (guess := math.log(len(fit.method.config.labels))):
            raise self._diverged(step, f"the loss is {loss:.1f}, where a guess has {guess:.2f}")
        now, seconds = time.perf_counter(), fit.feed.clips.seconds(batch)
        fit.history.add(
            step=step + 1,
            epoch=(step + 1) / fit.steps.per_epoch,
            loss=loss,
            accuracy=accuracy,
            gradient_norm=norm,
            learning_rate=fit.rate(step),
            clips=batch.real,
            audio_seconds=seconds,
            seconds=now - self._before,
        )
        rate = (
            f"{seconds / (now - self._before):.1f} s of sound/s"
            if seconds
            else f"{batch.real / (now - self._before):.1f} texts/s"
        )
        self._advance(1, f"loss {loss:.3f}, {rate}")
        if now - self._logged > LOG_SECONDS:
            logger.info("step %d of %d: loss %.3f, %s", step + 1, len(fit.steps), loss, rate)
            self._logged = now
        self._before = now

    def _diverged(self, step: int, what: str) -> InvalidInput:
        """Return the error that explains the divergence."""
        fit = self._fit
        batch = fit.steps[step]
        names = ", ".join(fit.names[int(clip)] for clip in batch.clips[: batch.real])
        saved = fit.saves.latest()
        kept = f"the state after step {saved} is kept" if saved else "no state was saved before"
        return InvalidInput(
            f"training diverges at step {step + 1}: {what}; its clips are {names}; {kept}; lower"
            " optimizer.learning_rate, "
            "set optimizer.clip_norm, or look at these clips"
        )


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[int], bool]]:
    """Yield a function that tells after a step whether SIGTERM arrived; hosts agree on the step."""
    if jax.process_count() > 1:
        yield lambda step: bool(multihost_utils.reached_preemption_sync_point(step))
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield lambda step: came.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def _plain(state: Any) -> dict[str, Any]:
    """Return the state of a reader as JSON values."""
    return json.loads(json.dumps(state))
