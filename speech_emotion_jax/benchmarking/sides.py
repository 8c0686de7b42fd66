"""The parent's half of a benchmark: it starts the processes and asks them to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .machine import count_cores

Answer = dict[str, Any]

PACKAGE = __name__.split(".")[0]


class Worker:
    """A side that stays loaded in a process of its own and answers one question at a time."""

    def __init__(self, module: str, task: str, settings: Mapping[str, Any], python: str | None = None):
        """Start a module of this wing and let it load a task. `wait_until_loaded` waits for it.

        Args:
            module: the name of the module.
            task: the task that it loads.
            settings: the settings of the task.
            python: the Python of another environment. None for this one.
        """
        self.module = module
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the process
        self._package = tempfile.TemporaryDirectory()
        environment = _environment()
        if python is not None:
            # Let the other environment find this package, but no other package of ours.
            Path(self._package.name, PACKAGE).symlink_to(Path(__file__).parent.parent.absolute())
            environment["PYTHONPATH"] = self._package.name
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", f"{PACKAGE}.benchmarking.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=environment,
        )
        self._send("begin", task=task, **settings)

    def wait_until_loaded(self) -> None:
        """Wait until the task has loaded.

        Raises:
            InvalidInput: as in `ask`.
        """
        self._answer()

    def ask(self, do: str, **question: Any) -> Answer:
        """Ask a question and wait for the answer.

        Args:
            do: the kind of question, see `serving.serve`.
            **question: the rest of the question.

        Raises:
            InvalidInput: if the process answers with an error or ends.
        """
        self._send(do, **question)
        return self._answer()

    def _send(self, do: str, **question: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; _answer says why
            print(json.dumps({"do": do, **question}), file=self._process.stdin, flush=True)

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise InvalidInput(
                f"the process {self.module} of the benchmark ended with code {code}: {self._last_line()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise InvalidInput(answer["error"])
        return answer

    def run(self, workload: Mapping[str, Any]) -> Answer:
        """Run a workload once. Return {"seconds": the time it took, "result": the result}."""
        return self.ask("run", **workload)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with suppress(BrokenPipeError):  # a question may still be unread
            self._process.communicate()
        self._stderr.close()
        self._package.cleanup()

    def _last_line(self) -> str:
        """Return the last line that the process wrote to stderr."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        messages = [line.strip() for line in lines if line.strip()]
        return messages[-1] if messages else "it printed nothing; it may have run out of memory"


class FreshProcess:
    """A side that starts a new process for every run. It is timed from the start to the first line of JSON."""

    def __init__(self, arguments: Sequence[str]):
        """Set the module to run and its arguments, which may name values of the workload in braces."""
        self._arguments = arguments
        self.peak_bytes = 0

    def run(self, workload: Mapping[str, Any]) -> Answer:
        """Run a workload once. Return {"seconds": the time it took, "result": the result}.

        Raises:
            InvalidInput: if the process fails.
        """
        module, *arguments = (each.format_map(workload) for each in self._arguments)
        with tempfile.TemporaryFile() as stderr:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.{module}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=_environment(),
            )
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - begun
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode or not line:
                stderr.seek(0)
                raise InvalidInput(f"{module} ended with code {process.returncode}: {stderr.read().decode()[-300:]}")
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        result = json.loads(line)
        return {"seconds": seconds, "result": list(result["scores"].values()) if "scores" in result else result}

    def close(self) -> None:
        """Do nothing: every process has ended."""


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(count_cores())}
