"""The worker's half of a benchmark: a process that loads once and answers each JSON line with a JSON line.

Everything that libraries print goes to stderr, so that stdout holds answers only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import SpeechEmotionError
from .machine import peak_memory, reset_peak_memory

Question = Mapping[str, Any]  # the settings of a task, or a workload that it is to run


class Task(Protocol):
    """A task that a worker has loaded."""

    def prepare(self, workload: Question) -> Callable[[], Any]:
        """Prepare a workload. Everything that is not timed is done here.

        Returns:
            The function that is timed. It returns an array or a list of texts, by which the sides are compared, and
            only when the computation is done.
        """
        ...


def serve(tasks: Mapping[str, Callable[[Question], Task]], rate: Callable[[str], float] | None = None) -> None:
    """Answer the parent's questions until it closes stdin.

    {"do": "begin", "task": ..., settings} loads a task. {"do": "run", workload} times one run. {"do": "rate",
    "precision": ...} returns the FLOP/s of a matrix product. {"do": "peak"} returns the peak memory, and
    {"do": "forget"} resets it. An error is answered with {"error": sentence}.

    Args:
        tasks: the tasks by name. Each loads itself from its settings.
        rate: measures the FLOP/s of a matrix product in a precision.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    task: Task | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer: dict[str, Any] = {}
            match question["do"]:
                case "begin":
                    task = tasks[question["task"]](question)
                case "run":
                    assert task is not None
                    answer = _timed(task.prepare(question))
                case "rate":
                    assert rate is not None
                    answer = {"rate": rate(question["precision"])}
                case "peak":
                    answer = {"bytes": peak_memory()}
                case "forget":
                    reset_peak_memory()
        except SpeechEmotionError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers)


def _timed(run: Callable[[], Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "result": result if isinstance(result, list) else np.asarray(result).tolist()}
