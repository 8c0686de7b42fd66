"""Kill training at random moments and start it again.

The installed command runs in a process group of its own, which SIGKILL from outside ends: with several hosts, all of
them or one, after which the job is started again as a whole.
"""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pyarrow.parquet as pq

from .kill_runs import Runs, kill

PARAMETERS = ("best-published/model.safetensors", "best-published/text_encoder/model.safetensors")


def outcome(output: Path) -> tuple[str, ...]:
    """Digests of the parameters, and of the curve without the times."""
    files = [output / name for name in PARAMETERS if (output / name).exists()]
    curve = pq.read_table(output / "history.parquet").drop_columns(["seconds"])
    return (
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
        hashlib.sha256(repr(curve.to_pylist()).encode()).hexdigest(),
    )


def states(output: Path) -> list[int]:
    """The steps whose state is saved whole."""
    return sorted(int(path.name) for path in (output / "states").glob("*") if path.name.isdigit())


def seconds_of_training(runs: Runs, output: Path) -> tuple[float, float]:
    """Run to the end. Seconds from the start to the first state, and to the end."""
    begun = time.monotonic()
    processes = runs.start(output)
    first = None
    while any(process.poll() is None for process in processes):
        if first is None and states(output):
            first = time.monotonic() - begun
        time.sleep(0.05)
    if any(process.returncode for process in processes):
        raise SystemExit(f"the uninterrupted run failed; see {runs.work}/{output.name}-*.log")
    end = time.monotonic() - begun
    return first or end, end


def interrupted(runs: Runs, output: Path, chance: random.Random, span: tuple[float, float], *, one: bool) -> list[str]:
    """Kill a run up to three times, then let it finish. Tells which state was the last at each kill."""
    seen = []
    for _ in range(chance.choice([1, 2, 3])):
        processes = runs.start(output)
        time.sleep(chance.uniform(0.5 * span[0], span[1]))
        kill([chance.choice(processes)] if one else processes)
        if one:
            time.sleep(chance.uniform(0, 2))  # the other goes on for a while
            kill(processes)
        ended = (output / "metrics.json").exists()
        seen.append("the end" if ended else f"step {max(states(output), default=0)}")
    runs.finish(output)
    return seen
