"""Kill bulk runs at random moments and start them again.

The installed command runs in a process group of its own, which SIGKILL from outside ends: with several hosts, all
of them or one, after which the job is started again as a whole.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("speech-emotion-jax")
PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Runs:
    """How the command is run: its verb and arguments, but for the output and the hosts."""

    arguments: tuple[str, ...]
    work: Path
    hosts: int = 1
    devices: int = 1

    def start(self, *outputs: Path) -> list[subprocess.Popen[bytes]]:
        """A process a host, each the leader of a group of its own, with one output for all or one for each."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}",
            # Compiling is not what is tested.
            "JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [str(COMMAND), *self.arguments]
        port = _free_port()
        started = []
        for host in range(self.hosts):
            output = outputs[host % len(outputs)]
            several = [
                f"--output={output}",
                f"--coordinator=127.0.0.1:{port}",
                f"--hosts={self.hosts}",
                f"--host={host}",
            ]
            with (self.work / f"{output.name}-{host}.log").open("ab") as log:
                started.append(
                    subprocess.Popen(
                        command + several[: None if self.hosts > 1 else 1],
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        return started

    def finish(self, output: Path) -> None:
        """Run to the end. 3: some clips have an error, which is as it should be where they are broken."""
        codes = [process.wait() for process in self.start(output)]
        if not set(codes) <= {0, 3}:
            raise SystemExit(f"a run failed, {codes}; see {self.work}/{output.name}-*.log")


def kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def digest(output: Path) -> str:
    return hashlib.sha256((output / PREDICTIONS).read_bytes()).hexdigest()


class Span(NamedTuple):
    """Seconds from the start of an uninterrupted run to its first part, its last part, and its end."""

    first: float
    last: float
    end: float


def seconds_of_work(runs: Runs, output: Path) -> Span:
    """Run to the end."""
    begin = time.monotonic()
    processes = runs.start(output)
    first = last = None
    while any(process.poll() is None for process in processes):
        parts = len(list(output.glob("part-*")))
        if parts and first is None:
            first = time.monotonic() - begin
        if last is None and (output / PREDICTIONS).exists():
            last = time.monotonic() - begin
        time.sleep(0.02)
    if any(process.returncode not in (0, 3) for process in processes):
        raise SystemExit(f"the uninterrupted run failed; see {runs.work}/{output.name}-*.log")
    end = time.monotonic() - begin
    return Span(first or end, last or end, end)


def interrupted(runs: Runs, output: Path, chance: random.Random, span: Span, *, one: bool) -> list[str]:
    """Kill a run up to three times, then let it finish. Tells what was there at each kill."""
    seen = []
    for _ in range(chance.choice([1, 2, 3])):
        processes = runs.start(output)
        # Most kills fall where clips are scored, others before, or where results are put together.
        scoring = chance.random() < 0.7
        time.sleep(chance.uniform(span.first, span.last) if scoring else chance.uniform(0.6 * span.first, span.end))
        victims = [chance.choice(processes)] if one else processes
        kill(victims)
        if one:
            time.sleep(chance.uniform(0, 2))  # the other goes on for a while
            kill(processes)
        parts = len(list(output.glob("part-*")))
        predicted = ", predictions" if (output / PREDICTIONS).exists() else ""
        seen.append("the end" if (output / "report.html").exists() else f"{parts} parts{predicted}")
    runs.finish(output)
    return seen


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
