"""A finished timeline of one or more recordings, and the span that each of its units stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from .units import TimelineUnit

SCHEMA = 1


@dataclass(frozen=True)
class Timeline:
    """The units of recordings and how they were made.

    Attributes:
        recordings: Names of the recordings. One without units holds no speech.
        labels: The labels, in the checkpoint's order.
        units: The units, those of a recording together and in order.
        settings: How the units were made, as JSON values.
        notice: What a reader must know of the checkpoint, such as that it is a toy; None if there is nothing.
    """

    recordings: Sequence[str]
    labels: Sequence[str]
    units: Sequence[TimelineUnit]
    settings: Mapping[str, Any]
    notice: str | None = None

    @property
    def empty(self) -> list[str]:
        """The recordings without units."""
        present = {unit["recording"] for unit in self.units}
        return [name for name in self.recordings if name not in present]


def read_notice(model_id: str) -> str | None:
    """Return the notice in the config.json of a checkpoint's folder, or None."""
    try:
        notice = json.loads((Path(model_id) / "config.json").read_bytes()).get("notice")
    except (OSError, ValueError, AttributeError):
        return None
    return notice if isinstance(notice, str) else None


def spans(units: Sequence[TimelineUnit]) -> Iterator[tuple[float, float, TimelineUnit]]:
    """Yield the span of time that each unit stands for.

    Where units of one speaker overlap, as windows do, a moment belongs to the unit with the nearest centre. Without an
    overlap the span is the unit.

    Args:
        units: Units, those of a recording together.

    Yields:
        Start, end and unit, by recording and start. A unit that is nowhere the nearest is left out.
    """
    for _, recording in groupby(units, key=lambda unit: unit["recording"]):
        found = []
        by_speaker: dict[str | None, list[TimelineUnit]] = {}
        for unit in recording:
            by_speaker.setdefault(unit["speaker"], []).append(unit)
        for own in by_speaker.values():
            own.sort(key=_centre)
            borders = [_border(left, right) for left, right in pairwise(own)]
            for unit, left, right in zip(own, [None, *borders], [*borders, None], strict=True):
                start = unit["start"] if left is None else max(unit["start"], left)
                end = unit["end"] if right is None else min(unit["end"], right)
                if end > start:
                    found.append((start, end, unit))
        yield from sorted(found, key=lambda span: span[0])


def _centre(unit: TimelineUnit) -> float:
    return (unit["start"] + unit["end"]) / 2


def _border(left: TimelineUnit, right: TimelineUnit) -> float | None:
    """Return where the span of `left` ends and that of `right` begins, or None if they don't overlap."""
    return (_centre(left) + _centre(right)) / 2 if left["end"] > right["start"] else None
