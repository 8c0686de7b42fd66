"""Figures of differences against depth: of a parity check, and of whatever else has the same stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..runtime.plots import BLUE, GREY, INK, ORANGE, WIDTH, drawn
from .difference import budget
from .stages import ENCODERS, layers
from .verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@drawn
def draw(verdicts: Sequence[Verdict], precision: str) -> Figure:
    """The largest difference at each stage, of both networks and of each stage alone; a line a recording."""
    stages = [row.stage for row in verdicts[0].rows]
    figure, axes = stage_axes(stages)
    allowed = {stage: budget(stage, precision).largest or math.nan for stage in stages}
    for number, verdict in enumerate(verdicts):
        both = {row.stage: row.difference.largest for row in verdict.rows if row.difference is not None}
        alone = {row.stage: row.alone.largest for row in verdict.rows if row.alone is not None}
        trace(axes, stages, both, BLUE, "" if number else "both networks from one input")
        if alone:
            trace(axes, stages, alone, ORANGE, "" if number else "the stage alone, from the original's before it")
        for row in verdict.rows:
            if not row.passed:
                height = max(both.get(row.stage, 0.0), alone.get(row.stage, 0.0)) or allowed[row.stage]
                axes.plot(stages.index(row.stage), height, "x", color=INK, markersize=9)
    axes.step(range(len(stages)), list(allowed.values()), where="mid", color=GREY, linewidth=0.8, label="allowed")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def stage_axes(stages: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with a place for each stage; differences are of the stage's scale, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(WIDTH * 1.4, 0.17 * len(stages) + 1.5), 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yscale("log")
    axes.set_ylabel("largest difference, of the stage's scale\n(triangles: none)")
    axes.set_xticks(range(len(stages)), stages, rotation=90, fontsize=6.5, parse_math=False)
    axes.set_xlim(-0.7, len(stages) - 0.3)
    axes.grid(axis="y")
    return figure, axes


def trace(axes: Axes, stages: Sequence[str], heights: Mapping[str, float], color: str, label: str) -> None:
    """A point a stage, those of an encoder's layers joined; where nothing differs, a triangle at the bottom."""
    place = {stage: number for number, stage in enumerate(stages)}
    some = [stage for stage in heights if heights[stage] > 0]
    axes.plot([place[stage] for stage in some], [heights[stage] for stage in some], ".", color=color, label=label)
    for encoder in ENCODERS:
        joined = [stage for stage in layers(heights, encoder) if heights[stage] > 0]
        axes.plot([place[stage] for stage in joined], [heights[stage] for stage in joined], color=color, linewidth=0.8)
    none = [place[stage] for stage in heights if heights[stage] == 0]
    bottom = axes.get_xaxis_transform()
    axes.plot(none, [0.02] * len(none), "^", color=color, markersize=3, fillstyle="none", transform=bottom)
