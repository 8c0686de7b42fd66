"""`speech-emotion-jax benchmark`: time and memory on this machine, ours alone or side by side with PyTorch.

Real weights don't change speed, so everything is measured on RANDOM weights in the published layout. Each side is a
process of its own that is warm; sides take turns, and ratios are of neighbouring turns, so that a machine whose speed
wanders slows both. `benchmarks.json` in the output folder grows by the cases of each run; the page and the figure are
made from all of it, whatever the order of the runs.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio import MAX_SECONDS
from ..errors import InvalidInput
from ..models.kernels.pallas import SWITCH
from ..runtime.cache_folder import cache_folder
from ..runtime.precision import check_precision
from ..runtime.storage import Folder
from ..runtime.versions import versions
from . import plans
from .figure import draw
from .machine import describe
from .page import markdown, table
from .plans import Plan
from .torch_side import check_installed
from .turns import Result, measure
from .weights import RandomCheckpoint, concat_config, random_checkpoint

SCHEMA = 1
TASKS = ("encoder", "prediction", "start", "bulk", "transcription", "training")
DEFAULT_TASKS = tuple(task for task in TASKS if task != "transcription")  # it needs a Whisper checkpoint and recordings
JSON, PAGE, FIGURE = "benchmarks.json", "benchmarks.md", "benchmarks.png"
PACKAGES = ("speech_emotion_jax", "jax", "flax", "torch", "transformers")
SWITCHES = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "OMP_", "MKL_", "ONEDNN_", "XLA_", "JAX_", SWITCH)  # that change speed


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure.

    tasks: of TASKS
    against: "torch", or None for ours alone
    output: folder for JSON, page and figure, to which cases are added; None: nothing is written
    precisions: "float32", "bfloat16" or both, of all tasks but transcription and training
    seconds: lengths of the clips of encoder and prediction; start takes the shortest
    clips: how many of bulk
    pairs: turns of each side
    layers, width: of a model smaller than the published one
    weights: folder for random checkpoints; None: the cache
    batch: clips at once of bulk (None: as evaluate chooses) and transcription (None: 64)
    whisper, recordings, language: of transcription: a Whisper folder, and what it hears
    faster_whisper: another environment's Python and a CTranslate2 folder
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    against: str | None = None
    output: str | None = None
    precisions: tuple[str, ...] = ("float32",)
    seconds: tuple[float, ...] = (10.0, 30.0)
    clips: int = 40
    pairs: int = 5
    layers: int | None = None
    width: int | None = None
    weights: str | None = None
    whisper: str | None = None
    recordings: tuple[str, ...] = ()
    batch: int | None = None
    language: str = "es"
    faster_whisper: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise InvalidInput(f"the benchmark {unknown[0]!r} is unknown; choose of {', '.join(TASKS)}")
        if self.against not in (None, "torch"):
            raise InvalidInput(f"there is no comparison with {self.against!r}; use --against torch, or leave it out")
        for precision in self.precisions:
            check_precision(precision)
        wrong = [f"{each:g}" for each in self.seconds if not 0.1 <= each <= MAX_SECONDS]
        if wrong or not self.seconds:
            length = wrong[0] if wrong else "no"
            raise InvalidInput(f"clips of {length} s can't be measured; name lengths from 0.1 to 160")
        numbers = {name: getattr(self, name) for name in ("clips", "pairs", "batch", "layers", "width")}
        if small := [name for name, number in numbers.items() if number is not None and number < 1]:
            raise InvalidInput(f"{' and '.join(small)} must be at least 1")
        if "transcription" in self.tasks and (self.whisper is None or not self.recordings):
            raise InvalidInput("the benchmark of transcription needs --whisper-model FOLDER and --audio FILE ...")


def benchmark(job: BenchmarkConfig) -> dict[str, Any]:
    """Measure, and write what was measured beside what the output folder holds already.

    Returns {"schema": 1, "machine": ..., "versions": ..., "switches": environment variables that change speed,
    "cases": [...]}, where `turns.measure` says what a case has. Raises InvalidInput where the other side can't be run,
    or where the folder's figures are of another machine, of other versions or other switches.
    """
    if job.against is not None:
        check_installed()  # before weights are made for it, a minute or so
    folder = None if job.output is None else Folder.open(job.output)
    report = _report()
    if folder is not None:
        report["cases"] = _kept(folder, report)
    with tempfile.TemporaryDirectory() as temporary:
        for plan in _plans(job, Path(temporary)):
            for result in measure(plan, job.pairs):
                others = [each for each in report["cases"] if _key(each) != _key(result)]
                report["cases"] = sorted([*others, result], key=_place)
                if folder is not None:  # each one, as all of them may take an hour
                    _write(folder, report)
    return report


def render_benchmark(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    return table(report)


def _plans(job: BenchmarkConfig, folder: Path) -> Iterator[Plan]:
    against = job.against is not None
    if {"encoder", "prediction", "start", "bulk"} & set(job.tasks):
        home = Path(job.weights).expanduser() if job.weights else cache_folder() / "benchmarks"
        checkpoint = random_checkpoint(concat_config(job.layers, job.width), home.absolute())
        for precision in job.precisions:
            yield from _of_emotion(job, checkpoint, precision, folder, against=against)
    if "transcription" in job.tasks:
        assert job.whisper is not None
        yield plans.transcription(
            job.whisper, job.recordings, job.batch or 64, job.language, job.faster_whisper, against=against
        )
    if "training" in job.tasks:
        yield from plans.training(against=against)


def _of_emotion(
    job: BenchmarkConfig, checkpoint: RandomCheckpoint, precision: str, folder: Path, *, against: bool
) -> Iterator[Plan]:
    if "encoder" in job.tasks:
        yield plans.encoder(checkpoint, precision, job.seconds, against=against)
    if "prediction" in job.tasks:
        yield plans.prediction(checkpoint, precision, job.seconds, folder, against=against)
    if "start" in job.tasks:
        yield plans.start(checkpoint, precision, job.seconds, folder, against=against)
    if "bulk" in job.tasks:
        yield plans.bulk(checkpoint, precision, job.clips, job.batch, folder, against=against)


def _report() -> dict[str, Any]:
    switches = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SWITCHES)}
    return {"schema": SCHEMA, "machine": describe(), "versions": versions(*PACKAGES), "switches": switches, "cases": []}


def _kept(folder: Folder, report: Mapping[str, Any]) -> list[Result]:
    """The cases that the folder holds."""
    if not folder.holds(JSON):
        folder.make()
        return []
    try:
        kept = json.loads(folder.read(JSON))
        differing = [name for name in report if name != "cases" and kept[name] != report[name]]
        cases = kept["cases"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder.path(JSON)} is no report of benchmarks; name another folder") from error
    if differing:
        raise InvalidInput(
            f"{folder.path(JSON)} holds figures with other {', '.join(differing)}; name another folder, or remove it"
        )
    return cases


def _write(folder: Folder, report: Mapping[str, Any]) -> None:
    folder.write(JSON, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    compared = any(case["ratios"] for case in report["cases"])
    folder.write(PAGE, markdown(report, FIGURE if compared else None).encode())
    if compared:
        folder.write(FIGURE, draw(report["cases"]))


def _key(case: Mapping[str, Any]) -> Sequence[str]:
    return [case["task"], case["title"], case["case"], case["precision"]]


def _place(case: Mapping[str, Any]) -> tuple[int, str, bool, float]:
    """By task, precision and the length of a clip; else in the order in which cases were measured."""
    number, _, unit = case["case"].partition(" ")
    length = float(number) if unit == "s" else 0.0
    return TASKS.index(case["task"]), case["title"], case["precision"] != "float32", length
