"""Plot differences at each stage, for the parity check and the study of precisions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..runtime.plots import BLUE, GREY, INK, ORANGE, WIDTH, as_png, make_figure
from .difference import budget
from .stages import ENCODERS, layers
from .verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@as_png
def draw_parity(verdicts: Sequence[Verdict], precision: str) -> Figure:
    """Plot the largest difference at each stage, with one line for each recording.

    Args:
        verdicts: verdicts on recordings with the same stages.
        precision: "float32" or "bfloat16". It selects the budgets that are drawn.
    """
    stages = [row.stage for row in verdicts[0].rows]
    figure, axes = make_stage_axes(stages)
    allowed = {stage: budget(stage, precision).largest or math.nan for stage in stages}
    for number, verdict in enumerate(verdicts):
        both = {row.stage: row.difference.largest for row in verdict.rows if row.difference is not None}
        alone = {row.stage: row.alone.largest for row in verdict.rows if row.alone is not None}
        plot_stages(axes, stages, both, BLUE, "" if number else "whole network, same input")
        if alone:
            plot_stages(axes, stages, alone, ORANGE, "" if number else "stage alone, original's input")
        for row in verdict.rows:
            if not row.passed:
                height = max(both.get(row.stage, 0.0), alone.get(row.stage, 0.0)) or allowed[row.stage]
                axes.plot(stages.index(row.stage), height, "x", color=INK, markersize=9)
    axes.step(range(len(stages)), list(allowed.values()), where="mid", color=GREY, linewidth=0.8, label="budget")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def make_stage_axes(stages: Sequence[str]) -> tuple[Figure, Axes]:
    """Create a figure with one position for each stage and a logarithmic axis for differences."""
    figure = make_figure(3.6, max(WIDTH * 1.4, 0.17 * len(stages) + 1.5))
    axes = figure.add_subplot()
    axes.set_yscale("log")
    axes.set_ylabel("largest difference / scale of the stage\n(triangles: no difference)")
    axes.set_xticks(range(len(stages)), stages, rotation=90, fontsize=6.5, parse_math=False)
    axes.set_xlim(-0.7, len(stages) - 0.3)
    axes.grid(axis="y")
    return figure, axes


def plot_stages(axes: Axes, stages: Sequence[str], heights: Mapping[str, float], color: str, label: str) -> None:
    """Plot a point for each stage and join those of one encoder's layers. A triangle marks a difference of 0.

    Args:
        axes: axes made by `make_stage_axes`.
        stages: the stages of the axes, in order.
        heights: the differences by stage.
        color: the colour of the points and lines.
        label: the legend's entry, or "" for none.
    """
    x = {stage: number for number, stage in enumerate(stages)}
    positive = [stage for stage in heights if heights[stage] > 0]
    axes.plot([x[stage] for stage in positive], [heights[stage] for stage in positive], ".", color=color, label=label)
    for encoder in ENCODERS:
        joined = [stage for stage in layers(heights, encoder) if heights[stage] > 0]
        axes.plot([x[stage] for stage in joined], [heights[stage] for stage in joined], color=color, linewidth=0.8)
    zero = [x[stage] for stage in heights if heights[stage] == 0]
    bottom = axes.get_xaxis_transform()
    axes.plot(zero, [0.02] * len(zero), "^", color=color, markersize=3, fillstyle="none", transform=bottom)
