"""The parent's half of a benchmark: processes that take turns."""

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
from .machine import cores

Answer = dict[str, Any]

PACKAGE = __name__.split(".")[0]


class Side:
    """A process of its own that loads once and answers one question at a time."""

    def __init__(self, module: str, task: str, settings: Mapping[str, Any], python: str | None = None):
        """Run a module of this package by this Python, or by another environment's; `loaded` waits for it."""
        self.module = module
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the process
        self._package = tempfile.TemporaryDirectory()
        environment = _environment()
        if python is not None:
            # The other environment is to find this package, and nothing else of ours.
            Path(self._package.name, PACKAGE).symlink_to(Path(__file__).parent.parent.absolute())
            environment["PYTHONPATH"] = self._package.name
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", f"{PACKAGE}.benchmarking.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        self._send("begin", task=task, **settings)

    def loaded(self) -> None:
        """Wait until it has loaded. Raises InvalidInput, as `ask` does."""
        self._answer()

    def ask(self, do: str, **question: Any) -> Answer:
        """Ask one thing and wait for the answer; `serving.serve` says what there is to ask.

        Raises InvalidInput for what the process says it can't do, and where it ends.
        """
        self._send(do, **question)
        return self._answer()

    def _send(self, do: str, **question: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer
            print(json.dumps({"do": do, **question}), file=self._process.stdin, flush=True)

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise InvalidInput(f"the process {self.module} of the benchmark ended with code {code}: {self._end()}")
        answer = json.loads(line)
        if "error" in answer:
            raise InvalidInput(answer["error"])
        return answer

    def run(self, request: Mapping[str, Any]) -> Answer:
        """{"seconds": of one run of a request, "result": what came out}"""
        return self.ask("run", **request)

    def close(self) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):  # of a question that it did not hear
            self._process.communicate()
        self._said.close()
        self._package.cleanup()

    def _end(self) -> str:
        """The last line that the process wrote to stderr, or what an empty one may mean."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "it said nothing, which may mean that memory was short"


class NewProcess:
    """A side that starts anew for every run, and is timed from its start to its first line of JSON."""

    def __init__(self, arguments: Sequence[str]):
        self._arguments = arguments
        self.peak_bytes = 0

    def run(self, request: Mapping[str, Any]) -> Answer:
        module, *arguments = (each.format_map(request) for each in self._arguments)
        with tempfile.TemporaryFile() as said:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.{module}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
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
                said.seek(0)
                raise InvalidInput(f"{module} ended with code {process.returncode}: {said.read().decode()[-300:]}")
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        result = json.loads(line)
        return {"seconds": seconds, "result": list(result["scores"].values()) if "scores" in result else result}

    def close(self) -> None:
        pass


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(cores())}
