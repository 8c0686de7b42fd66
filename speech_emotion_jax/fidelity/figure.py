"""The figure of a parity check: error against depth."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ..plots import BLUE, GREY, INK, ORANGE, STYLE, WIDTH
from .difference import Difference, budget
from .verdict import Verdict

SMALLEST = 1e-9  # that is drawn: no difference at all has no place on a logarithmic axis


def draw(verdicts: Sequence[Verdict], precision: str) -> bytes:
    """A PNG: the largest difference at each stage, a line a recording, of both networks and of each stage alone."""
    import matplotlib
    from matplotlib.figure import Figure

    stages = [row.stage for row in verdicts[0].rows]
    places = range(len(stages))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(WIDTH * 1.4, 0.17 * len(stages) + 1.5), 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, verdict in enumerate(verdicts):
            named = number == 0
            axes.plot(
                places,
                [_height(row.found) for row in verdict.rows],
                ".-",
                color=BLUE,
                linewidth=0.8,
                label="both networks from one input" if named else None,
            )
            alone = [(place, row) for place, row in enumerate(verdict.rows) if row.alone is not None]
            if alone:
                axes.plot(
                    [place for place, _ in alone],
                    [_height(row.alone) for _, row in alone],
                    ".",
                    color=ORANGE,
                    label="the stage alone, from the original's before it" if named else None,
                )
            for place, row in enumerate(verdict.rows):
                if not row.good:
                    axes.plot(place, max(_height(row.found), _height(row.alone)), "x", color=INK, markersize=9)
        allowed = [max(budget(stage, precision).largest, SMALLEST) for stage in stages]
        axes.step(places, allowed, where="mid", color=GREY, linewidth=0.8, label="allowed")
        axes.set_yscale("log")
        axes.set_ylabel("largest difference, of the stage's scale")
        axes.set_xticks(places, stages, rotation=90, fontsize=6.5, parse_math=False)
        axes.set_xlim(-0.7, len(stages) - 0.3)
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=3)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
        return content.getvalue()


def _height(found: Difference | None) -> float:
    return SMALLEST if found is None else max(found.largest, SMALLEST)
