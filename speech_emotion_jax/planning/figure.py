"""The figure of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.plots import BLUE, GREEN, GREY, INK, ORANGE, WIDTH, as_png, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"compute": BLUE, "memory": ORANGE, "network": GREEN}
CASE_HEIGHT = 0.42  # inches


@as_png
def draw(cases: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the times and the memory of each case, one case per row.

    Args:
        cases: the cases of a plan, see `run.plan`.
        title: what the cases have in common.

    Returns:
        A PNG.
    """
    labels = [f"{case['topology']}, {case['batch_size']}{', largest' * case['largest']}" for case in cases]
    figure = make_figure(1.3 + CASE_HEIGHT * len(cases), WIDTH * 1.7)
    times, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    height = 0.8 / len(COLORS)
    for number, (name, color) in enumerate(COLORS.items()):
        rows = [row + (number - 1) * height for row, case in enumerate(cases) if case["fits"]]
        lengths = [1000 * case["times"][name] for case in cases if case["fits"]]
        times.barh(rows, lengths, height, color=color, label=name)
    memory.barh(
        [row for row, case in enumerate(cases) if case["fits"]],
        [100 * case["share"] for case in cases if case["fits"]],
        0.5,
        color=GREY,
    )
    for row, case in enumerate(cases):
        if case["fits"]:
            memory.text(100 * case["share"], row, f" {case['share']:.1%}", va="center", color=INK)
        else:
            times.text(0, row, " does not fit", va="center", color=INK)
    memory.axvline(100, color=INK, linewidth=0.8)
    times.set_yticks(range(len(cases)), labels, parse_math=False)
    times.set_ylim(len(cases) - 0.5, -0.5)
    times.set_ylabel("chips, clips at once" if cases[0]["seconds"] else "chips, texts at once")
    times.set_xlabel("ms of a batch at the chip's peak, each alone")
    memory.set_xlabel("% of a chip's memory")
    memory.set_xlim(0, 125)
    for axes in (times, memory):
        axes.grid(axis="x")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    figure.legend(loc="outside lower left", ncols=3)
    return figure
