"""Smooth probabilities over time. A smoothed timeline names it in its settings."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..errors import InvalidInput
from .units import TimelineUnit

LONGEST = 3_600.0  # seconds


def check_smoothing(seconds: float) -> None:
    """Raise InvalidInput unless a time constant can be used."""
    if not 0 < seconds <= LONGEST:
        raise InvalidInput(f"the smoothing is {seconds:g} s; it must be above 0 and at most {LONGEST:g} s")


def smooth(units: Iterable[TimelineUnit], seconds: float) -> list[TimelineUnit]:
    """Smooth the probabilities of each speaker exponentially.

    A unit keeps exp(-d / seconds) of the smoothed probabilities before it, where d is the time between the centres of
    the two units, and takes the rest from its own. So it depends on no later unit. The probabilities still sum to 1
    where they did. Units that were not scored stay as they are and have no influence.

    Args:
        units: Units, those of a recording by their start.
        seconds: The time constant.

    Returns:
        The units with smoothed probabilities and the most probable label by these.

    Raises:
        InvalidInput: The time constant is out of its range.
    """
    check_smoothing(seconds)
    before: dict[tuple[str, str | None, int | None], tuple[float, dict[str, float]]] = {}
    smoothed = []
    for unit in units:
        scores = unit["probabilities"]
        if scores is not None:
            series, centre = (unit["recording"], unit["speaker"], unit["channel"]), (unit["start"] + unit["end"]) / 2
            if series in before:
                then, earlier = before[series]
                kept = math.exp(-max(0.0, centre - then) / seconds)
                scores = {label: kept * earlier[label] + (1 - kept) * score for label, score in scores.items()}
            before[series] = centre, scores
            unit = TimelineUnit({**unit, "probabilities": scores, "top_label": max(scores, key=scores.__getitem__)})
        smoothed.append(unit)
    return smoothed
