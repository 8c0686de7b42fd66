"""What each precision costs in numbers, on the device at hand: stage by stage, in labels and in probabilities.

All are held against our own float32 in full precision, on the same features and tokens; no PyTorch is needed.
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
from ..runtime.console import aligned
from ..runtime.devices import select_device, select_mesh
from ..runtime.plots import BLUE, GREEN, GREY, ORANGE, SKY, drawn
from ..runtime.progress import progress
from ..runtime.storage import Folder
from .difference import difference, scale_of
from .examples import make_examples
from .figure import stage_axes, trace
from .jax_emotion import JaxEmotion
from .products import JAX_PRECISIONS, ROUNDED_BITS
from .stages import LOGITS, POOLED, PROBABILITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
JSON, FIGURE = "precision.json", "precision.png"
EXACT = "float32, highest"
BFLOAT16 = "bfloat16"
# In the order of the table: the checkpoint's precision, and how float32 is multiplied.
VARIANTS = {
    **{f"float32, {name}": ("float32", name) for name in JAX_PRECISIONS},
    **{f"float32, {name}": ("float32", name) for name in ROUNDED_BITS},
    BFLOAT16: ("bfloat16", None),
}
WHY = {
    "cpu": "A CPU multiplies float32 in full whatever JAX is set to: highest, high and default are one program.",
    "tpu": (
        "A TPU multiplies bfloat16. Of float32 it makes sums of bfloat16: 6 passes (highest), 3 (high) or, by default, "
        "1, which rounds both operands to 8 bits."
    ),
    "gpu": (
        "From A100 on a GPU multiplies float32 as TF32, rounded to 11 bits, where JAX is set to high or to default, as "
        "it is by default; highest is full float32."
    ),
}
ALWAYS = (
    "The models ask for highest wherever a weight is float32, so no default of JAX's or of a device reaches them: high "
    "and default are what would come out otherwise. The rounded rows do by hand, on any device, what GPUs (TF32) and "
    "TPUs (bfloat16) do by default. bfloat16 is what --precision bfloat16 does: encoders' matrices and the operands "
    "beside them; sums, norms, softmax and what flows between layers stay float32."
)


@dataclass(frozen=True)
class Variant:
    """What a precision makes of the recordings.

    drift: {stage: the largest difference of all recordings, of the stage's scale}, in the order of the stages
    same: recordings whose top label is the same
    divergence: mean Kullback-Leibler divergence of its probabilities from the exact ones, in nats
    largest, mean: absolute differences of a probability
    """

    name: str
    drift: Mapping[str, float]
    same: int
    divergence: float
    largest: float
    mean: float


@dataclass(frozen=True)
class PrecisionsResult:
    """Of all recordings; `why` says what the device does."""

    checkpoint: str
    device: str
    recordings: int
    why: str
    variants: Sequence[Variant]


@dataclass(frozen=True)
class PrecisionsConfig:
    """What is studied: a checkpoint, on recordings and their texts (one each, or one for all), on one device."""

    request: Request
    recordings: Sequence[str] = ()
    texts: Sequence[str] = ()
    device: object = None
    output: str | None = None


def measure_precisions(job: PrecisionsConfig) -> PrecisionsResult:
    """Run every variant on every recording; write JSON and figure where an output is asked for.

    Raises InvalidInput and UnreadableInput for a checkpoint, recording or text that can't be used.
    """
    output = None if job.output is None else Folder.open(job.output)
    device = select_device(job.device)
    checkpoint = resolve_emotion(job.request)
    place = NamedSharding(select_mesh(device), PartitionSpec())
    loaded = {precision: load_resolved(checkpoint, place, precision) for precision in ("float32", "bfloat16")}
    config = loaded["float32"].config
    pairs = make_examples(job.recordings, job.texts, hears=config.audio is not None, reads=config.text is not None)
    sides = {name: JaxEmotion(loaded[precision], products) for name, (precision, products) in VARIANTS.items()}
    drifts: dict[str, dict[str, float]] = {name: {} for name in sides}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    with progress(f"Comparing precisions on {len(pairs)} examples", len(pairs) * len(sides)) as advance:
        for audio, text in pairs:
            given = sides[EXACT].read_inputs(audio, text)
            exact = sides[EXACT].run_networks(given)
            for name, side in sides.items():
                stages = exact if name == EXACT else side.run_networks(given)
                for stage, array in stages.items():
                    apart = difference(array, exact[stage], scale_of(stage, exact[stage])).largest
                    drifts[name][stage] = max(apart, drifts[name].get(stage, 0.0))
                scores[name].append(stages[PROBABILITIES])
                advance(1)
    exact_scores = np.stack(scores[EXACT])
    variants = [_variant(name, drifts[name], exact_scores, np.stack(scores[name])) for name in sides]
    result = PrecisionsResult(
        job.request.model_id,
        device.device_kind,
        len(pairs),
        f"{WHY.get(device.platform, '')} {ALWAYS}".strip(),
        variants,
    )
    if output is not None:
        output.make()
        output.write(FIGURE, draw(result))
        output.write(JSON, (json.dumps(precisions_as_dict(result), indent=1, ensure_ascii=False) + "\n").encode())
    return result


def _variant(
    name: str,
    drift: Mapping[str, float],
    exact: Float[np.ndarray, "examples labels"],
    scores: Float[np.ndarray, "examples labels"],
) -> Variant:
    p, q = exact.astype(np.float64), scores.astype(np.float64)
    # The sums of rounded probabilities are not 1; this form, sum(p log(p / q) - p + q), is never negative.
    divergence = kl_div(p, np.maximum(q, np.finfo(np.float32).tiny)).sum(axis=1)
    apart = np.abs(p - q)
    same = int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    return Variant(name, dict(drift), same, float(divergence.mean()), float(apart.max()), float(apart.mean()))


def precisions_as_dict(result: PrecisionsResult) -> dict[str, Any]:
    """As JSON takes it: {"schema", "checkpoint", "device", "recordings", "why", "variants": [a Variant's fields]}."""
    return {"schema": SCHEMA, **vars(result), "variants": [vars(each) for each in result.variants]}


def render_precisions(result: PrecisionsResult) -> str:
    """A table for a terminal, and what it means."""
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
            *aligned(rows),
            "",
            "Largest differences from the first row, of a stage's largest value, and the mean one of a probability.",
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
    found = list(values)
    return f"{max(found):.1e}" if found else ""


@drawn
def draw(result: PrecisionsResult) -> Figure:
    """The drift at each stage, a line a precision."""
    figure, axes = stage_axes(list(result.variants[0].drift))
    for variant, color in zip(result.variants[1:], (GREY, SKY, GREEN, ORANGE, BLUE), strict=True):
        trace(axes, list(variant.drift), variant.drift, color, variant.name)
    figure.legend(loc="outside upper left", ncols=3)
    return figure
