"""The figures of a run's report, as PNGs on white in colours for colour-blind readers.

Labels and groups are the user's words. They are drawn literally ($ starts no formula), and shortened if they are long.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches of every figure: small, so the text stays readable on a phone
LONGEST = 18  # characters of a name in a figure; longer ones are shortened
NUMBERED_LABELS = 40  # with more labels, the cells of a confusion matrix have no numbers
MOST_POINTS = 1000  # a curve with more points is drawn as bands
BANDS = 200  # segments of such a curve

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#8A8A8A"
INK, PALE = "#262626", "#D9D9D9"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so figures are the same on every machine
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 220,
    "text.usetex": False,
}

P = ParamSpec("P")


@dataclass(frozen=True)
class Slice:
    """A metric of some of the clips, with its interval.

    Attributes:
        name: the group or bin of these clips.
        clips: their number.
        value: their accuracy or mean top score, a fraction.
        low: the low end of the interval.
        high: the high end of the interval.
        uar: their unweighted average recall, a fraction; None if their true labels are unknown.
    """

    name: str
    clips: int
    value: float
    low: float
    high: float
    uar: float | None = None


def shorten(name: str, longest: int = LONGEST) -> str:
    """Put a user's word on one line without control characters, ended by … if it has over `longest` characters."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"


def as_png(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Decorate a function that draws a figure to return a PNG. The same figure gives the same bytes."""

    @wraps(draw)
    def png(*inputs: P.args, **named: P.kwargs) -> bytes:
        import matplotlib

        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box. That is no loss, because the page repeats the names.
            warnings.filterwarnings("ignore", message=r"(?s)(Glyph .* missing|Matplotlib currently does not support)")
            content = io.BytesIO()
            draw(*inputs, **named).savefig(content, format="png", metadata={"Software": None})
            return content.getvalue()

    return png


def make_figure(height: float, width: float = WIDTH) -> Figure:
    """Create an empty figure of a height and width in inches."""
    from matplotlib.figure import Figure  # slow to import; pyplot is avoided because it has global state

    return Figure(figsize=(width, height), layout="constrained")


@as_png
def confusion(labels: Sequence[str], counts: Int[np.ndarray, "labels labels"]) -> Figure:
    """Draw a confusion matrix, shaded by the fraction of each row.

    Args:
        labels: the names of the labels.
        counts: clips by true label (rows) and predicted label (columns).
    """
    size = len(labels)
    figure = make_figure(min(1.2 + 0.5 * size, 12.0))
    axes = figure.add_subplot()
    totals = counts.sum(axis=1, keepdims=True)
    fractions = counts / np.maximum(totals, 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if size <= NUMBERED_LABELS:
        letters = 8.5 if size <= 8 else max(3.0, 62 / size)
        for row in range(size):
            for column in range(size):
                words = f"{counts[row, column]:,}"
                if size <= 8 and totals[row, 0]:
                    words = f"{100 * fractions[row, column]:.0f} %\n{words}"
                color = "white" if fractions[row, column] > 0.55 else INK if counts[row, column] else GREY
                axes.text(column, row, words, ha="center", va="center", color=color, fontsize=letters)
    rows = [f"{shorten(label)}\n{total:,}" for label, total in zip(labels, totals[:, 0], strict=True)]
    axes.set_yticks(range(size), rows if size <= 12 else [shorten(label) for label in labels], parse_math=False)
    slant = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if size > 7 or _long(labels) else {}
    axes.set_xticks(range(size), [shorten(label) for label in labels], parse_math=False, **slant)
    axes.tick_params(length=0, labelsize=8.5 if size <= 16 else max(4.0, 140 / size))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true, and clips" if size <= 12 else "true")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    if size > 8:  # with fewer labels, the cells show the percentages
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 0.5, 1])
        bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
        bar.ax.tick_params(length=0, labelsize=7.5)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.set_label("share of the true label's clips", fontsize=7.5)
    return figure


@as_png
def per_class(labels: Sequence[str], values: dict[str, Float[np.ndarray, " labels"]]) -> Figure:
    """Draw bars of up to three metrics for each label.

    Args:
        labels: the names of the labels.
        values: {metric: its value for each label, a fraction}.
    """
    figure = make_figure(0.9 + (0.21 * len(values) + 0.14) * min(len(labels), 60))
    axes = figure.add_subplot()
    places, thick = np.arange(len(labels)), 0.8 / len(values)
    for number, (name, color) in enumerate(zip(values, (BLUE, ORANGE, GREEN), strict=False)):
        middle = places + (number - (len(values) - 1) / 2) * thick
        axes.barh(middle, 100 * values[name], 0.9 * thick, color=color, label=name)
        for at, value in zip(middle, values[name], strict=True):
            axes.text(100 * value + 1, at, f"{100 * value:.1f}", va="center", fontsize=7)
    _rows(axes, [shorten(label) for label in labels])
    _percent(axes, "x", most=108)
    figure.legend(loc="outside upper left", ncols=len(values), fontsize=8)
    return figure


@as_png
def reliability(
    edges: Float[np.ndarray, " edges"],
    counts: Int[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    accuracy: Float[np.ndarray, " bins"],
    interval: Float[np.ndarray, "2 bins"],
) -> Figure:
    """Draw a reliability diagram, and below it the number of clips in each bin.

    Args:
        edges: the edges of the bins of the top label's score.
        counts: clips in each bin.
        confidence: mean score of the top label in each bin; NaN in an empty one.
        accuracy: fraction of right top labels in each bin; NaN in an empty one.
        interval: the low and the high ends of the accuracies' intervals.
    """
    figure = make_figure(4.1)
    axes, below = figure.subplots(2, sharex=True, height_ratios=[3.2, 1])
    full = counts > 0
    widths = 100 * np.diff(edges)
    axes.plot([0, 100], [0, 100], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="as sure as right")
    axes.bar(100 * edges[:-1], 100 * accuracy, widths, align="edge", color=SKY, alpha=0.45, edgecolor="white")
    ends = 100 * np.abs(interval - accuracy)[:, full]
    axes.errorbar(
        100 * confidence[full], 100 * accuracy[full], ends, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2,
        label="accuracy, 95 %",
    )  # fmt: skip
    axes.set_ylabel("right")
    axes.legend(loc="upper left", fontsize=8)
    _percent(axes, "y")
    below.bar(100 * edges[:-1], counts, widths, align="edge", color=GREY, edgecolor="white")
    below.set_ylabel("clips")
    below.set_xlabel("score of the top label")
    below.yaxis.set_major_locator(_few_whole())
    _percent(below, "x")
    figure.align_ylabels()
    return figure


@as_png
def by_length(slices: Sequence[Slice], quantity: str) -> Figure:
    """Draw a metric by the clips' durations.

    Args:
        slices: the bins of durations, each named by its seconds, such as "2.5-4.1". Their UARs are drawn as squares.
        quantity: the name of the metric.
    """
    figure = make_figure(3.1)
    axes = figure.add_subplot()
    places = np.arange(len(slices))
    values, ends = _points(slices)
    whole = [np.nan if each.uar is None else 100 * each.uar for each in slices]
    axes.errorbar(
        places, values, ends, fmt="o-", color=BLUE, markersize=5, linewidth=1.2, elinewidth=1, capsize=2, label=quantity
    )
    if not np.isnan(whole).all():
        axes.plot(places, whole, "s--", color=ORANGE, markersize=4, linewidth=1, label="UAR")
    axes.set_xticks(places, [f"{each.name}\nn {each.clips:,}" for each in slices])
    axes.tick_params(axis="x", length=0, labelsize=7.5)
    axes.set_xlim(-0.5, len(slices) - 0.5)
    axes.set_xlabel("seconds, and clips")
    _percent(axes, "y")
    figure.legend(loc="outside upper left", ncols=2, fontsize=8)
    return figure


@as_png
def by_group(slices: Sequence[Slice], quantity: str, overall: float) -> Figure:
    """Draw a metric by group, from top to bottom in the given order.

    Args:
        slices: the groups.
        quantity: the name of the metric.
        overall: the metric of all clips, drawn as a line.
    """
    figure = make_figure(1.0 + 0.2 * max(len(slices), 3))
    axes = figure.add_subplot()
    values, ends = _points(slices)
    axes.axvline(100 * overall, color=ORANGE, linewidth=1.2, label=f"all clips, {100 * overall:.1f} %")
    axes.errorbar(
        values, np.arange(len(slices)), xerr=ends, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2,
        label=quantity,
    )  # fmt: skip
    _rows(axes, [f"{shorten(each.name)}   n {each.clips:,}" for each in slices])
    _percent(axes, "x")
    axes.set_ylim(len(slices) - 0.4, -0.6)
    figure.legend(loc="outside upper left", ncols=2, fontsize=8)
    return figure


@as_png
def predicted(labels: Sequence[str], counts: Int[np.ndarray, " labels"]) -> Figure:
    """Draw how many clips were given each label."""
    figure = make_figure(0.8 + 0.34 * min(len(labels), 60))
    axes = figure.add_subplot()
    axes.barh(np.arange(len(labels)), counts, 0.7, color=BLUE)
    for row, count in enumerate(counts):
        axes.text(count, row, f" {count:,} ({100 * count / max(counts.sum(), 1):.1f} %)", va="center", fontsize=7.5)
    _rows(axes, [shorten(label) for label in labels])
    axes.set_xlim(0, 1.25 * max(counts.max(), 1))
    axes.xaxis.set_major_locator(_few_whole())
    axes.set_xlabel("clips given the label")
    axes.grid(axis="x")
    return figure


@as_png
def scores(top: Float[np.ndarray, " clips"]) -> Figure:
    """Draw a histogram of the top labels' scores, which are fractions."""
    figure = make_figure(2.8)
    axes = figure.add_subplot()
    axes.hist(100 * np.clip(top, 0, 1), bins=20, range=(0, 100), color=BLUE, edgecolor="white")
    middle = 100 * float(np.median(top))
    axes.axvline(middle, color=ORANGE, linewidth=1.4, label=f"median {middle:.1f} %")
    axes.set_xlabel("score of the top label")
    axes.set_ylabel("clips")
    axes.yaxis.set_major_locator(_few_whole())
    _percent(axes, "x")
    axes.legend(loc="upper left", fontsize=8)
    return figure


@as_png
def curves(
    steps: Int[np.ndarray, " steps"],
    losses: Float[np.ndarray, " steps"],
    validated: Int[np.ndarray, " validations"],
    valid_losses: Float[np.ndarray, " validations"],
    quality: Mapping[str, Float[np.ndarray, " validations"]],
) -> Figure:
    """Draw the losses of a training run and, below them, the metrics of its validations.

    Of more than MOST_POINTS steps, the central 90 % of the losses are drawn as a band. The best value of each metric is
    marked; of equal ones, the first.

    Args:
        steps: the numbers of the training steps, at least one.
        losses: the loss of each step.
        validated: the steps after which the model was validated; may be empty.
        valid_losses: the loss of each validation.
        quality: {metric: its value at each validation, a fraction}.
    """
    figure = make_figure(4.4 if len(validated) else 2.8)
    axes, *below = figure.subplots(2 if len(validated) else 1, sharex=True, squeeze=False)[:, 0]
    mean = _moving_mean(losses, max(len(losses) // 50, 1))
    if len(steps) > MOST_POINTS:
        bins = np.array_split(losses, BANDS)
        low, high = (np.array([np.quantile(each, level) for each in bins]) for level in (0.05, 0.95))
        middle = [each.mean() for each in np.array_split(steps, BANDS)]
        axes.fill_between(middle, low, high, color=SKY, alpha=0.35, linewidth=0, label="90 % of steps")
    else:
        axes.plot(steps, losses, ".-" if len(steps) <= 50 else "-", color=SKY, linewidth=0.8, alpha=0.7, label="step")
    if len(steps) > 20:
        some = np.linspace(0, len(steps) - 1, min(len(steps), MOST_POINTS)).astype(int)
        axes.plot(steps[some], mean[some], color=BLUE, linewidth=1.4, label="moving mean")
    points = "-" if len(validated) > 50 else "o-"
    if len(validated):
        axes.plot(validated, valid_losses, points, color=ORANGE, markersize=3.5, linewidth=1.2, label="validation")
    # The highest 1 % of the losses may be cut off: a few wild steps would press the curve flat.
    axes.set_ylim(0, 1.05 * float(np.nanmax([np.quantile(losses, 0.99), mean.max(), *valid_losses, 1e-9])))
    axes.set_ylabel("loss")
    axes.grid(axis="y")
    _legend_above(axes)
    for lower in below:
        for (name, values), color, marker in zip(quality.items(), (BLUE, GREEN), "os", strict=False):
            percent = 100 * values
            lower.plot(validated, percent, points.replace("o", marker), color=color, markersize=3.5, linewidth=1.2)
            best = int(np.argmax(np.nan_to_num(percent, nan=-1.0)))
            label = f"{name}, best {percent[best]:.1f} % at {validated[best]:,}"
            lower.plot(validated[best], percent[best], marker, color=color, markersize=9, fillstyle="none", label=label)
        _percent(lower, "y")
        lower.set_ylabel("validation")
        _legend_above(lower)
    bottom = below[-1] if below else axes
    bottom.set_xlabel("step")
    bottom.set_xlim(0, 1.02 * max(int(steps[-1]), 5))
    bottom.xaxis.set_major_locator(_few_whole())
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels()
    return figure


def _moving_mean(values: Float[np.ndarray, " values"], width: int) -> Float[np.ndarray, " values"]:
    """Return the mean of the `width` values around each value; of fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + (width + 1) // 2, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=3, columnspacing=1.2, fontsize=7.5)


def _points(slices: Sequence[Slice]) -> tuple[Float[np.ndarray, " slices"], Float[np.ndarray, "2 slices"]]:
    """Return the values, and how far their error bars reach down and up, in percent."""
    values = np.array([each.value for each in slices])
    ends = np.array([[each.low for each in slices], [each.high for each in slices]])
    return 100 * values, 100 * np.abs(ends - values)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=8.5 if len(names) <= 12 else 7)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _percent(axes: Axes, which: str, most: int = 102) -> None:
    axis: Any = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks([0, 20, 40, 60, 80, 100], ["0", "20", "40", "60", "80", "100 %"])
    (axes.set_xlim if which == "x" else axes.set_ylim)(-1 if which == "x" else 0, most)
    axes.grid(axis="x" if which == "x" else "y")


def _few_whole() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, integer=True)


def _long(labels: Sequence[str]) -> bool:
    return sum(len(shorten(label)) for label in labels) > 48
