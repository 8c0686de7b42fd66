"""The form of a check and of a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked, as a line of the report begins.
        value: the number that was compared, or None if the check could not run.
        limit: the largest value that passes.
        passed: whether it passed. None means that it does not apply here, and `remark` says why.
        remark: what a reader should know, for instance where the value is largest.
        seconds: how long the check took, compilation included.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    remark: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """One measured figure. It can't fail.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        remark: the setting that gave it.
    """

    name: str
    value: float
    unit: str
    remark: str = ""


@dataclass
class Clock:
    """Time that is left for measurements.

    Attributes:
        seconds: the time that the whole run may take.
    """

    seconds: float
    _begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the time is over. Negative afterwards."""
        return self.seconds - (time.monotonic() - self._begun)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block began."""
    begun = time.perf_counter()
    yield lambda: time.perf_counter() - begun


def limited(name: str, value: float, limit: float, seconds: float, remark: str = "") -> Check:
    """Return a check that passes if `value` is at most `limit`. NaN never passes."""
    return Check(name, value, limit, bool(value <= limit), remark, seconds)


def as_dict(result: Check | Measurement) -> dict[str, Any]:
    """Return a check or measurement as JSON takes it. Numbers that are not finite become None."""
    values = {key: value for key, value in vars(result).items() if not key.startswith("_")}
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }
