"""The self check: numbers first, then speed; one line a check, a page and a JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ..errors import InvalidInput
from ..runtime.console import align_columns
from ..runtime.devices import select_device
from ..runtime.pages import render_page
from ..runtime.progress import progress
from ..runtime.storage import Folder
from ..runtime.versions import versions
from .attention import LENGTHS, SHORT_LENGTHS, check_attention
from .checks import Check, Clock, Measurement, as_dict
from .numbers import check_goldens, check_sharding, check_training
from .speed import measure_attention, measure_encoder, measure_matmul, measure_torch

PAGE, JSON = "selfcheck.html", "selfcheck.json"
PACKAGES = ("speech_emotion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")
SCHEMA = 1


@dataclass(frozen=True)
class SelfcheckConfig:
    """What to check.

    Attributes:
        device: the device, as in `select_device`.
        output: a folder for the page and the JSON, or None.
        minutes: the time that the run may take. Checks of numbers always run; measurements stop in time.
        short: the short form: three lengths of attention in float32, and one layer in place of 24 for speed.
    """

    device: object = None
    output: str | None = None
    minutes: float = 8.0
    short: bool = False

    def __post_init__(self) -> None:
        """Refuse a time that is none.

        Raises:
            InvalidInput: if `minutes` is not positive.
        """
        if not self.minutes > 0:
            raise InvalidInput(f"--minutes {self.minutes:g} is no time to work in; give a positive number")


@dataclass(frozen=True)
class SelfcheckReport:
    """What was found: the device, the versions, the checks and the measurements."""

    device: str
    versions: Mapping[str, str]
    checks: Sequence[Check]
    measurements: Sequence[Measurement]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)


def selfcheck(config: SelfcheckConfig) -> SelfcheckReport:
    """Check the numbers of a device, then measure it, and write the report that is asked for.

    Raises:
        InvalidInput: if the device is not here or the output can't be a folder.
    """
    output = None if config.output is None else Folder.open(config.output)
    device = select_device(config.device)
    clock = Clock(60 * config.minutes)
    checks = []
    with progress("Checking numbers"):
        checks.extend(_checks(config, device))
    with progress("Measuring"):
        measurements = list(_measurements(config, device, clock))
    report = SelfcheckReport(device.device_kind, versions(*PACKAGES), checks, measurements)
    if output is not None:
        _write(output, report)
    return report


def _checks(config: SelfcheckConfig, device: jax.Device) -> Iterator[Check]:
    precisions = ("float32",) if config.short else ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as home:
        yield from check_goldens(device, Path(home), ("float32", "bfloat16"))
    yield from check_attention(device, SHORT_LENGTHS if config.short else LENGTHS, precisions)
    same_kind = [each for each in jax.local_devices(backend=device.platform) if each.device_kind == device.device_kind]
    same_kind.sort(key=lambda each: each != device)
    yield from check_training(same_kind)
    yield check_sharding(same_kind)


def _measurements(config: SelfcheckConfig, device: jax.Device, clock: Clock) -> Iterator[Measurement]:
    precision = "float32" if device.platform == "cpu" else "bfloat16"
    rate = measure_matmul(device, precision)
    yield rate
    layers = 1 if config.short else None
    yield from measure_attention(device, clock)
    yield from measure_encoder(device, clock, layers, precision, rate.value)
    yield from measure_torch(device, clock, layers, precision)


def selfcheck_as_dict(report: SelfcheckReport) -> dict[str, Any]:
    """Return the report as JSON takes it: schema, passed, device, versions, checks, measurements."""
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "device": report.device,
        "versions": dict(report.versions),
        "checks": [as_dict(check) for check in report.checks],
        "measurements": [as_dict(measurement) for measurement in report.measurements],
    }


def render_selfcheck(report: SelfcheckReport) -> str:
    """Return the report as lines of text, one a check and one a measurement."""
    checks = align_columns([_check_row(check) for check in report.checks])
    figures = align_columns([_measurement_row(each) for each in report.measurements])
    return "\n".join([report.device, "", *checks, "", *figures, "", _conclusion(report)])


def _conclusion(report: SelfcheckReport) -> str:
    failed = [check for check in report.checks if check.passed is False]
    if not failed:
        return f"PASSED: {sum(check.passed is True for check in report.checks)} checks"
    return f"FAILED: {len(failed)} of {len(report.checks)} checks, the first is {failed[0].name}"


def _check_row(check: Check) -> tuple[str, ...]:
    word = {True: "ok", False: "FAILED", None: "left out"}[check.passed]
    value = "" if check.value is None else f"{check.value:.1e}"
    limit = "" if check.limit is None else f"{check.limit:.0e}"
    return (check.name, value, limit, word, check.remark)


def _measurement_row(measurement: Measurement) -> tuple[str, ...]:
    return (measurement.name, f"{measurement.value:,.3g}", measurement.unit, measurement.remark)


def _write(folder: Folder, report: SelfcheckReport) -> None:
    content = render_page(
        __name__.rpartition(".")[0],
        title=f"Self check of {report.device}",
        passed=report.passed,
        conclusion=_conclusion(report),
        versions=", ".join(f"{name} {version}" for name, version in report.versions.items()),
        checks=[(_check_row(check), check.passed) for check in report.checks],
        measurements=[_measurement_row(each) for each in report.measurements],
    )
    folder.make()
    folder.write(PAGE, content)
    folder.write(JSON, (json.dumps(selfcheck_as_dict(report), indent=1, ensure_ascii=False) + "\n").encode())
