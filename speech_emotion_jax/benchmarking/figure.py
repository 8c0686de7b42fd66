"""The figure of a benchmark report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.plots import BLUE, GREEN, GREY, INK, ORANGE, SKY, WIDTH, as_png, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (BLUE, ORANGE, GREEN, SKY, GREY)
LINE = 0.34  # height of one case in inches


@as_png
def draw_ratios(cases: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot how many times faster ours is than each other side, with the range over all turns.

    Args:
        cases: the cases of a report, as `turns.measure` returns them. Each is one row of the figure.
    """
    names = list(dict.fromkeys(name for case in cases for name in case["ratios"]))
    figure = make_figure(1.2 + LINE * len(cases), WIDTH * 1.4)
    axes = figure.add_subplot()
    axes.axvline(1, color=INK, linewidth=0.8)
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        shown = [(row, case["ratios"][name]) for row, case in enumerate(cases) if name in case["ratios"]]
        for row, ratio in shown:
            axes.plot([min(ratio["pairs"]), max(ratio["pairs"])], [row, row], color=color, linewidth=1)
        axes.plot([each["median"] for _, each in shown], [row for row, _ in shown], "o", color=color, label=name)
    for row, case in enumerate(cases):
        if not case["ratios"]:
            beside = {"xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate("ours alone", (0, row), **beside, verticalalignment="center", color=GREY)
    labels = [f"{case['task']}, {case['case']}, {case['precision']}" for case in cases]
    axes.set_yticks(range(len(cases)), labels, parse_math=False)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("their time / ours")
    axes.grid(axis="x")
    if names:
        figure.legend(loc="outside upper left", ncols=2)
    return figure
