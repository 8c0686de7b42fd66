"""Measure how much each precision changes the results on this device: stages, labels and probabilities.

Every precision is compared with our own float32 at full precision, on the same features and tokens. PyTorch is not
needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float
from scipy.special import kl_div

from ..checkpoints import Request, load_resolved, resolve_emotion
from ..runtime.console import align_columns
from ..runtime.devices import select_device, select_mesh
from ..runtime.plots import BLUE, GREEN, GREY, ORANGE, SKY, as_png
from ..runtime.progress import progress
from ..runtime.storage import Folder
from .difference import difference, scale_of
from .examples import make_examples
from .figure import make_stage_axes, plot_stages
from .jax_emotion import JaxEmotion
from .products import JAX_PRECISIONS, ROUNDED_BITS
from .stages import LOGITS, POOLED, PROBABILITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
JSON, FIGURE = "precision.json", "precision.png"
EXACT = "float32, highest"
BFLOAT16 = "bfloat16"
# {row of the table: (the checkpoint's precision, the setting of float32 products)}, in the order of the table.
VARIANTS = {
    **{f"float32, {name}": ("float32", name) for name in JAX_PRECISIONS},
    **{f"float32, {name}": ("float32", name) for name in ROUNDED_BITS},
    BFLOAT16: ("bfloat16", None),
}
DEVICE_NOTES = {
    "cpu": "A CPU multiplies float32 in full under every setting, so highest, high and default are the same program.",
    "tpu": (
        "A TPU multiplies bfloat16. It splits a float32 product into bfloat16 passes: 6 (highest), 3 (high) or 1 "
        "(default), which rounds both operands to 8 bits."
    ),
    "gpu": (
        "GPUs from the A100 on multiply float32 as TF32, rounded to 11 bits, when JAX is set to high or default. "
        "highest is full float32."
    ),
}
GENERAL_NOTE = (
    "The models request highest wherever a weight is float32, so the defaults of JAX and of the device do not affect "
    "them; high and default show what would happen otherwise. The rounded rows emulate on any device what GPUs (TF32) "
    "and TPUs (bfloat16) do by default. bfloat16 is --precision bfloat16: the encoders' matrices and their operands "
    "are bfloat16; sums, norms, softmax and the states between layers stay float32."
)


@dataclass(frozen=True)
class Variant:
    """The results of one precision over all recordings.

    Attributes:
        name: the row of the table.
        drift: {stage: the largest difference, divided by the stage's scale}, in the order of the stages.
        same: the number of recordings whose top label is unchanged.
        divergence: the mean Kullback-Leibler divergence of the probabilities from the exact ones, in nats.
        largest: the largest absolute difference of a probability.
        mean: the mean absolute difference of a probability.
    """

    name: str
    drift: Mapping[str, float]
    same: int
    divergence: float
    largest: float
    mean: float


@dataclass(frozen=True)
class PrecisionsResult:
    """The comparison of all precisions.

    Attributes:
        checkpoint: what the user called the checkpoint.
        device: the kind of device.
        recordings: the number of examples.
        why: how this device multiplies float32.
        variants: the results of each precision, the exact one first.
    """

    checkpoint: str
    device: str
    recordings: int
    why: str
    variants: Sequence[Variant]


@dataclass(frozen=True)
class PrecisionsConfig:
    """The settings of `measure_precisions`.

    Attributes:
        request: the emotion checkpoint.
        recordings: paths of audio files.
        texts: one text for each recording, or one text for all.
        device: the device, as in `select_device`.
        output: the folder for JSON and figure. None to write nothing.
    """

    request: Request
    recordings: Sequence[str] = ()
    texts: Sequence[str] = ()
    device: object = None
    output: str | None = None


def measure_precisions(config: PrecisionsConfig) -> PrecisionsResult:
    """Run every precision on every example, and write JSON and figure to `config.output`.

    Args:
        config: the settings.

    Returns:
        The comparison.

    Raises:
        InvalidInput: if the checkpoint, a recording or a text cannot be used.
        UnreadableInput: if the checkpoint or a recording cannot be read.
    """
    output = None if config.output is None else Folder.open(config.output)
    device = select_device(config.device)
    checkpoint = resolve_emotion(config.request)
    place = NamedSharding(select_mesh(device), PartitionSpec())
    loaded = {precision: load_resolved(checkpoint, place, precision) for precision in ("float32", "bfloat16")}
    architecture = loaded["float32"].config
    examples = make_examples(
        config.recordings,
        config.texts,
        uses_audio=architecture.audio is not None,
        uses_text=architecture.text is not None,
    )
    sides = {name: JaxEmotion(loaded[precision], products) for name, (precision, products) in VARIANTS.items()}
    drifts: dict[str, dict[str, float]] = {name: {} for name in sides}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    with progress(f"Comparing precisions on {len(examples)} examples", len(examples) * len(sides)) as advance:
        for audio, text in examples:
            inputs = sides[EXACT].read_inputs(audio, text)
            exact = sides[EXACT].run_networks(inputs)
            for name, side in sides.items():
                stages = exact if name == EXACT else side.run_networks(inputs)
                for stage, array in stages.items():
                    largest = difference(array, exact[stage], scale_of(stage, exact[stage])).largest
                    drifts[name][stage] = max(largest, drifts[name].get(stage, 0.0))
                scores[name].append(stages[PROBABILITIES])
                advance(1)
    exact_scores = np.stack(scores[EXACT])
    variants = [_variant(name, drifts[name], exact_scores, np.stack(scores[name])) for name in sides]
    result = PrecisionsResult(
        config.request.model_id,
        device.device_kind,
        len(examples),
        f"{DEVICE_NOTES.get(device.platform, '')} {GENERAL_NOTE}".strip(),
        variants,
    )
    if output is not None:
        output.make()
        output.write(FIGURE, draw_precisions(result))
        output.write(JSON, (json.dumps(precisions_as_dict(result), indent=1, ensure_ascii=False) + "\n").encode())
    return result


def _variant(
    name: str,
    drift: Mapping[str, float],
    exact: Float[np.ndarray, "examples labels"],
    scores: Float[np.ndarray, "examples labels"],
) -> Variant:
    p, q = exact.astype(np.float64), scores.astype(np.float64)
    # Rounded probabilities do not sum to 1. This form, sum(p log(p / q) - p + q), is never negative even so.
    divergence = kl_div(p, np.maximum(q, np.finfo(np.float32).tiny)).sum(axis=1)
    apart = np.abs(p - q)
    same = int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    return Variant(name, dict(drift), same, float(divergence.mean()), float(apart.max()), float(apart.mean()))


def precisions_as_dict(result: PrecisionsResult) -> dict[str, Any]:
    """Return the result as JSON data.

    The format is {"schema", "checkpoint", "device", "recordings", "why", "variants": [the fields of `Variant`]}.
    """
    return {"schema": SCHEMA, **vars(result), "variants": [vars(each) for each in result.variants]}


def render_precisions(result: PrecisionsResult) -> str:
    """Render the result as a table for a terminal, followed by an explanation."""
    head = (
        "",
        "audio layers",
        "text layers",
        "pooled",
        "logits",
        "a probability",
        "mean",
        "KL (nats)",
        "same label",
    )
    rows = [head, *(_row(each, result.recordings) for each in result.variants)]
    return "\n".join(
        [
            f"{result.checkpoint}, on {result.device}, {result.recordings} example{'s' * (result.recordings > 1)}",
            "",
            *align_columns(rows),
            "",
            "Differences from the first row: the largest of each stage, divided by the stage's largest value, and the "
            "largest and mean of a probability.",
            result.why,
        ]
    )


def _row(variant: Variant, count: int) -> tuple[str, ...]:
    drift = variant.drift
    numbers = [
        *(_largest(value for stage, value in drift.items() if stage.startswith(name)) for name in ("audio ", "text ")),
        f"{drift[POOLED]:.1e}" if POOLED in drift else "",
        f"{drift[LOGITS]:.1e}",
        f"{variant.largest:.1e}",
        f"{variant.mean:.1e}",
        f"{variant.divergence:.1e}",
    ]
    return variant.name, *numbers, f"{variant.same} of {count}"


def _largest(values: Iterable[float]) -> str:
    differences = list(values)
    return f"{max(differences):.1e}" if differences else ""


@as_png
def draw_precisions(result: PrecisionsResult) -> Figure:
    """Plot the drift at each stage, with one line for each precision."""
    figure, axes = make_stage_axes(list(result.variants[0].drift))
    for variant, color in zip(result.variants[1:], (GREY, SKY, GREEN, ORANGE, BLUE), strict=True):
        plot_stages(axes, list(variant.drift), variant.drift, color, variant.name)
    figure.legend(loc="outside upper left", ncols=3)
    return figure
