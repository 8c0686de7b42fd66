"""Benchmark time and memory on this machine, ours alone or side by side with PyTorch.

The values of weights do not change the speed, so all tasks run on RANDOM weights in the published layout. Each side is
a warm process of its own. The sides take turns and ratios compare neighbouring turns, so a change in the machine's
speed affects both sides. Each run adds its cases to `benchmarks.json` in the output folder. The page and the figure
show all cases in the file, in an order that does not depend on the order of the runs.
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
from .figure import draw_ratios
from .machine import describe_machine
from .page import render_markdown, render_table
from .plans import Plan
from .torch_side import check_installed
from .turns import CaseResult, measure_plan
from .weights import RandomCheckpoint, concat_config, random_checkpoint

SCHEMA = 1
TASKS = ("encoder", "prediction", "start", "bulk", "transcription", "training")
DEFAULT_TASKS = tuple(task for task in TASKS if task != "transcription")  # needs files of the user
JSON, PAGE, FIGURE = "benchmarks.json", "benchmarks.md", "benchmarks.png"
PACKAGES = ("speech_emotion_jax", "jax", "flax", "torch", "transformers")
SWITCHES = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "OMP_", "MKL_", "ONEDNN_", "XLA_", "JAX_", SWITCH)  # may change speed


@dataclass(frozen=True)
class BenchmarkConfig:
    """The settings of a benchmark.

    Attributes:
        tasks: the tasks to run, from TASKS.
        against: "torch" to compare with PyTorch, or None for ours alone.
        output: the folder for JSON, page and figure, to which cases are added. None to write nothing.
        precisions: "float32", "bfloat16" or both. Transcription and training always run in float32.
        seconds: the lengths of the clips of encoder and prediction. The task start takes the shortest.
        clips: the number of clips of bulk.
        pairs: the number of turns of each side.
        layers: the number of layers of a model smaller than the published one.
        width: the width of a model smaller than the published one.
        weights: the folder for random checkpoints. None for the cache folder.
        whisper: the folder of the Whisper checkpoint of transcription.
        recordings: the recordings of transcription.
        batch: the clips in one batch of bulk (None as `evaluate` chooses) and of transcription (None for 64).
        language: the language of the recordings of transcription.
        faster_whisper: the Python of an environment with faster-whisper, and a folder in CTranslate2's format.
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
        """Raise InvalidInput if a setting cannot be used."""
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise InvalidInput(f"the benchmark {unknown[0]!r} is unknown; choose from {', '.join(TASKS)}")
        if self.against not in (None, "torch"):
            raise InvalidInput(f"there is no comparison with {self.against!r}; use --against torch, or leave it out")
        for precision in self.precisions:
            check_precision(precision)
        wrong = [f"{each:g}" for each in self.seconds if not 0.1 <= each <= MAX_SECONDS]
        if wrong or not self.seconds:
            length = wrong[0] if wrong else "no"
            raise InvalidInput(f"clips of {length} s can't be measured; give lengths from 0.1 to {MAX_SECONDS:g}")
        numbers = {name: getattr(self, name) for name in ("clips", "pairs", "batch", "layers", "width")}
        if small := [name for name, number in numbers.items() if number is not None and number < 1]:
            raise InvalidInput(f"{' and '.join(small)} must be at least 1")
        if "transcription" in self.tasks and (self.whisper is None or not self.recordings):
            raise InvalidInput("the benchmark of transcription needs --whisper-model FOLDER and --audio FILE ...")


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run the benchmarks, and add their cases to the report in the output folder.

    Args:
        config: the settings.

    Returns:
        {"schema": 1, "machine": ..., "versions": ..., "switches": environment variables that may change the speed,
        "cases": [...]}. See `turns.measure_plan` for the fields of a case.

    Raises:
        InvalidInput: if another side cannot be run, or the report in the folder was made on another machine, with
            other versions or with other switches.
    """
    if config.against is not None:
        check_installed()  # before spending a minute on making weights
    folder = None if config.output is None else Folder.open(config.output)
    report = _empty_report()
    if folder is not None:
        report["cases"] = _read_cases(folder, report)
    with tempfile.TemporaryDirectory() as temporary:
        for plan in _plans(config, Path(temporary)):
            for result in measure_plan(plan, config.pairs):
                others = [each for each in report["cases"] if _case_key(each) != _case_key(result)]
                report["cases"] = sorted([*others, result], key=_sort_key)
                if folder is not None:  # after each case, because all cases may take an hour
                    _write(folder, report)
    return report


def render_benchmark(report: Mapping[str, Any]) -> str:
    """Render a report, as `benchmark` returns it, for a terminal."""
    return render_table(report)


def _plans(config: BenchmarkConfig, folder: Path) -> Iterator[Plan]:
    against = config.against is not None
    if {"encoder", "prediction", "start", "bulk"} & set(config.tasks):
        home = Path(os.path.expanduser(config.weights)) if config.weights else cache_folder() / "benchmarks"
        checkpoint = random_checkpoint(concat_config(config.layers, config.width), home.absolute())
        for precision in config.precisions:
            yield from _emotion_plans(config, checkpoint, precision, folder, against=against)
    if "transcription" in config.tasks:
        assert config.whisper is not None
        yield plans.plan_transcription(
            config.whisper,
            config.recordings,
            config.batch or 64,
            config.language,
            config.faster_whisper,
            against=against,
        )
    if "training" in config.tasks:
        yield from plans.plan_training(against=against)


def _emotion_plans(
    config: BenchmarkConfig, checkpoint: RandomCheckpoint, precision: str, folder: Path, *, against: bool
) -> Iterator[Plan]:
    if "encoder" in config.tasks:
        yield plans.plan_encoder(checkpoint, precision, config.seconds, against=against)
    if "prediction" in config.tasks:
        yield plans.plan_prediction(checkpoint, precision, config.seconds, folder, against=against)
    if "start" in config.tasks:
        yield plans.plan_start(checkpoint, precision, config.seconds, folder, against=against)
    if "bulk" in config.tasks:
        yield plans.plan_bulk(checkpoint, precision, config.clips, config.batch, folder, against=against)


def _empty_report() -> dict[str, Any]:
    switches = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SWITCHES)}
    return {
        "schema": SCHEMA,
        "machine": describe_machine(),
        "versions": versions(*PACKAGES),
        "switches": switches,
        "cases": [],
    }


def _read_cases(folder: Folder, report: Mapping[str, Any]) -> list[CaseResult]:
    """Read the cases of the report in the folder.

    Raises:
        InvalidInput: if the report is damaged, or differs from `report` in anything but its cases.
    """
    if not folder.holds(JSON):
        folder.make()
        return []
    try:
        previous = json.loads(folder.read(JSON))
        differing = [name for name in report if name != "cases" and previous[name] != report[name]]
        cases = previous["cases"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder.path(JSON)} is not a report of benchmarks; name another folder") from error
    if differing:
        raise InvalidInput(
            f"{folder.path(JSON)} was measured with other {', '.join(differing)}; name another folder, or remove it"
        )
    return cases


def _write(folder: Folder, report: Mapping[str, Any]) -> None:
    folder.write(JSON, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    compared = any(case["ratios"] for case in report["cases"])
    folder.write(PAGE, render_markdown(report, FIGURE if compared else None).encode())
    if compared:
        folder.write(FIGURE, draw_ratios(report["cases"]))


def _case_key(case: Mapping[str, Any]) -> Sequence[str]:
    return [case["task"], case["title"], case["case"], case["precision"]]


def _sort_key(case: Mapping[str, Any]) -> tuple[int, str, bool, float]:
    """Sort by task, title, precision and length of the clip. Other cases stay in the order of measurement."""
    number, _, unit = case["case"].partition(" ")
    length = float(number) if unit == "s" else 0.0
    return TASKS.index(case["task"]), case["title"], case["precision"] != "float32", length
