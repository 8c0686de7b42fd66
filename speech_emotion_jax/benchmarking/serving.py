"""The worker's half of a benchmark: a process that loads once and answers questions, a JSON line for a JSON line.

What libraries print goes to stderr, so that stdout holds answers alone.
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
from .machine import forget_peak, peak_memory

Request = Mapping[str, Any]


class Task(Protocol):
    """What a side has loaded."""

    def prepare(self, request: Request) -> Callable[[], Any]:
        """What answers a request, with all that is not to be timed done before.

        It is done when it returns, with an array or a list of texts by which the sides' results are compared.
        """
        ...


def serve(tasks: Mapping[str, Callable[[Request], Task]], rate: Callable[[str], float] | None = None) -> None:
    """Answer until the parent closes stdin.

    {"do": "begin", "task": ..., settings} loads a task, {"do": "run", request} times it once, {"do": "rate",
    "precision": ...} gives the FLOP/s of a matrix product, {"do": "peak"} the peak memory, which {"do": "forget"}
    counts anew. What can't be done is answered with {"error": sentence}.
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
                    forget_peak()
        except SpeechEmotionError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers)


def _timed(run: Callable[[], Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "result": result if isinstance(result, list) else np.asarray(result).tolist()}
