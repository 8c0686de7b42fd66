"""`speech-emotion-jax plan`: what a run will take on chips that are not there: memory, time's lower bound, what binds.

The real program is compiled for the chips by their own compiler and counted (`planning.hlo`). The roofline is the time
that the slowest of three would take at its peak alone: products, bytes to and from memory, bytes between chips. It is a
compiled estimate; nothing has run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..audio import MAX_SECONDS
from ..config import EmotionConfig
from ..errors import InvalidInput
from ..inference import TOKEN_BUCKETS
from ..models.kernels.pallas import kernels_enabled
from ..registry import check_language, check_mode
from ..runtime.console import aligned
from ..runtime.precision import check_precision
from ..runtime.progress import progress
from ..runtime.storage import Folder
from .chips import Topology
from .compile import compiled
from .figure import draw
from .programs import bucketed_tokens, model_flops

JSON, FIGURE = "plan.json", "plan.png"
HEAD = ("topology", "chips", "batch", "memory used", "share", "compute", "memory", "network", "bound")
Case = dict[str, Any]


@dataclass(frozen=True)
class PlanConfig:
    """What to plan: each topology with each batch size, of clips of `seconds` and, where the mode reads, of `tokens`.

    batch_sizes: of all chips together, or (`per_chip`) of each
    largest: look for the largest batch that fits, to an eighth, too
    output: folder for plan.json and plan.png; None: nothing is written
    """

    topologies: tuple[str, ...]
    mode: str = "concat"
    language: str = "es"
    batch_sizes: tuple[int, ...] = (256,)
    per_chip: bool = False
    seconds: float = 15.0
    tokens: int = 64
    precision: str = "bfloat16"
    train: bool = False
    largest: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_language(self.language)
        check_precision(self.precision)
        if not 0.1 <= self.seconds <= MAX_SECONDS:
            raise InvalidInput(f"clips of {self.seconds:g} s can't be planned; name a length from 0.1 to 160 s")
        if not 1 <= self.tokens <= TOKEN_BUCKETS[-1]:
            raise InvalidInput(f"texts of {self.tokens} tokens can't be planned; name 1 to {TOKEN_BUCKETS[-1]}")
        if not self.batch_sizes and not self.largest:
            raise InvalidInput("there is no batch size to plan; name one, or look for the largest")
        if min(self.batch_sizes, default=1) < 1:
            raise InvalidInput(f"a batch of {min(self.batch_sizes)} can't be planned; it must be at least 1")
        for topology in self.parsed():
            for size in self.batch_sizes:
                if not self.per_chip and size % topology.chips:
                    raise InvalidInput(
                        f"a batch of {size} can't be divided over the {topology.chips} chips of {topology.name}; "
                        "choose a multiple"
                    )

    def parsed(self) -> list[Topology]:
        return [Topology.parse(name) for name in self.topologies]


def plan(job: PlanConfig) -> list[Case]:
    """A case for each topology and batch size, in that order; the largest batch that fits is one more.

    topology, chip, chips, mode, language, precision, train, seconds, frames, tokens; None: no sound or text
    kernels         whether attention was a kernel's, where one fits
    padded_tokens   to which texts of so many are padded, as `frames` are with padding
    batch_size      of all chips
    fits, refusal   whether it fits into the chips' memory, and the compiler's words where it does not; then no more
    memory          {part: bytes} of a chip
    share           of the chip's memory that these parts take
    flops, bytes    of a chip: products, and what passes between its memory and its core
    of_model        flops over the model's own count, which knows no padding and computes nothing twice
    collectives     {kind: {"count", "bytes"}}; the bytes are those a chip receives
    times           {"compute", "memory", "network"}: seconds at the chip's peak, each alone
    bound, roofline the longest of the three, seconds
    per_second      clips or texts of one chip, at most
    audio_hours     of sound in an hour of one chip, at most; None: no sound
    largest         whether this is the largest batch that fits

    Raises InvalidInput where the chips' compiler is not installed.
    """
    cases: list[Case] = []
    folder = None if job.output is None else Folder.open(job.output)  # compiling takes minutes: refused before
    planned = [
        (topology, size * topology.chips if job.per_chip else size)
        for topology in job.parsed()
        for size in job.batch_sizes
    ]
    if planned:
        with progress(f"Compiling {len(planned)} program{'s' * (len(planned) != 1)}", len(planned)) as advance:
            for topology, clips in planned:
                cases.append(_case(job, topology, clips))
                advance(1)
    if job.largest:
        for topology in job.parsed():
            with progress(f"Looking for the largest batch on {topology.name}"):
                cases.append(_largest(job, topology))
    if folder is not None:
        folder.make()
        folder.write(JSON, (json.dumps(cases, indent=1) + "\n").encode())
        folder.write(FIGURE, draw(cases, _what(cases[0])))
    return cases


def render_plan(cases: Sequence[Case]) -> str:
    """Tables for a terminal: a case in full, or several, one a line."""
    first = cases[0]
    lines = [
        _what(first),
        "compiled for the chips and counted: an estimate, nothing has run",
        "",
    ]
    return "\n".join([*lines, *(_in_full(first) if len(cases) == 1 else _table(cases))])


def _what(case: Case) -> str:
    """What all cases of a plan have in common."""
    return (
        f"{'training step' if case['train'] else 'prediction'}, {case['mode']}, {case['language']}, "
        f"{case['precision']}"
        + (f", clips of {case['seconds']:g} s" if case["seconds"] else "")
        + (f" ({case['frames']} frames with padding)" if case.get("frames") else "")
        + (f", texts of {case['tokens']} tokens ({case['padded_tokens']} with padding)" if case["tokens"] else "")
        + ("" if case["kernels"] else ", without kernels")
    )


def _of_batch(case: Case) -> str:
    """How many clips or texts are given at once, in words."""
    return f"{case['batch_size']} {'clips' if case['seconds'] else 'texts'}"


def _case(job: PlanConfig, topology: Topology, clips: int) -> Case:
    hears, reads = job.mode != "text", job.mode != "audio"
    case: Case = {
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "mode": job.mode,
        "language": job.language,
        "precision": job.precision,
        "train": job.train,
        "kernels": kernels_enabled(),
        "seconds": job.seconds if hears else None,
        "tokens": job.tokens if reads else None,
        "padded_tokens": bucketed_tokens(job.tokens) if reads else None,
        "batch_size": clips,
        "largest": False,
    }
    asked = {name: case[name] for name in ("topology", "mode", "language", "precision", "train")}
    found = compiled({**asked, "seconds": job.seconds, "tokens": job.tokens, "clips": clips})
    if "refused" in found:
        return case | {"fits": False, "refusal": found["refused"]}
    chip = topology.chip
    peak = chip.bfloat16 if job.precision == "bfloat16" else chip.float32
    own = model_flops(EmotionConfig.published(job.language, job.mode), job.seconds, job.tokens, train=job.train)
    received = sum(each["bytes"] for each in found["collectives"].values())
    times = {
        "compute": found["flops"] / peak,
        "memory": found["bytes"] / chip.bandwidth,
        "network": received / chip.network,
    }
    bound = max(times, key=lambda name: times[name])
    total = sum(size for part, size in found["memory"].items() if part not in ("weights", "state"))
    fits = total <= chip.memory
    per_second = clips / topology.chips / times[bound]
    return case | {
        "fits": fits,
        "refusal": None if fits else f"needs {_bytes(total)} of {_bytes(chip.memory)}",
        "frames": found["frames"],
        "memory": found["memory"],
        "share": total / chip.memory,
        "flops": found["flops"],
        "of_model": found["flops"] / (own * clips / topology.chips),
        "bytes": found["bytes"],
        "bytes_by_kind": found["bytes_by_kind"],
        "collectives": found["collectives"],
        "times": times,
        "bound": bound,
        "roofline": times[bound],
        "per_second": per_second,
        "audio_hours": per_second * job.seconds if hears else None,
        "compile_seconds": found["seconds"],
    }


def _largest(job: PlanConfig, topology: Topology) -> Case:
    """Of 1, 2, ... 16, 18, 20, ... 32, 36, ... clips a chip, the most that fit."""
    best = case = _case(job, topology, topology.chips)
    low, high = 1, len(_SIZES) if case["fits"] else 1
    while low < high:
        place = (low + high) // 2
        case = _case(job, topology, _SIZES[place] * topology.chips)
        if case["fits"]:
            best, low = case, place + 1
        else:
            high = place
    return best | {"largest": True}


_SIZES = sorted({*range(1, 8), *(eighths * 2**power for power in range(14) for eighths in range(8, 16))})


def _in_full(case: Case) -> Iterator[str]:
    of_chip = f"{case['topology']}, {case['chips']} chips, {_of_batch(case)}"
    yield of_chip if case["chips"] > 1 else of_chip.replace("chips,", "chip,")
    if not case["fits"]:
        yield f"  does not fit: {case['refusal']}"
        return
    yield f"  memory of a chip     {_bytes(sum(_parts(case).values()))}, {case['share']:.1%} of what it has"
    for part, size in case["memory"].items():
        yield f"    {part:18} {_bytes(size)}" + (" (of the arguments)" if part in ("weights", "state") else "")
    own = f"{case['of_model']:.2f} x the model's own count, which knows no padding"
    yield f"  products of a chip   {case['flops'] / 1e12:,.2f} TFLOP, {own}"
    yield f"  bytes of a chip      {_bytes(case['bytes'])} to and from its memory"
    if case["collectives"]:
        for kind, each in case["collectives"].items():
            yield f"  {kind:20} {each['count']:,}, {_bytes(each['bytes'])} received"
    else:
        yield "  between chips        nothing"
    for name, seconds in case["times"].items():
        yield f"  {name + ' alone':20} {_seconds(seconds)}" + ("  <- binds" if name == case["bound"] else "")
    if case["seconds"]:
        yield f"  audio                {case['audio_hours']:,.0f} hours in an hour of a chip, at most"
    else:
        yield f"  texts                {case['per_second']:,.0f} in a second of a chip, at most"
    yield f"  compiled in          {case['compile_seconds']:.0f} s"


def _table(cases: Sequence[Case]) -> list[str]:
    rates = ("hours/chip-hour", "hours/hour") if cases[0]["seconds"] else ("texts/s of a chip", "texts/s")
    rows, refusals = [[*HEAD, *rates]], []
    for case in cases:
        size = f"{case['batch_size']}{' (largest)' if case['largest'] else ''}"
        row = [case["topology"], str(case["chips"]), size]
        if case["fits"]:
            rate = case["audio_hours"] if case["seconds"] else case["per_second"]
            row += [
                _bytes(sum(_parts(case).values())),
                f"{case['share']:.1%}",
                *(_seconds(case["times"][name]) for name in ("compute", "memory", "network")),
                case["bound"],
                f"{rate:,.0f}",
                f"{rate * case['chips']:,.0f}",
            ]
        else:
            row += ["does not fit", *[""] * (len(rows[0]) - len(row) - 1)]
            refusals.append(f"{case['topology']}, {_of_batch(case)}: {case['refusal']}")
        rows.append(row)
    return [*aligned(rows), *refusals]


def _parts(case: Mapping[str, Any]) -> dict[str, int]:
    """The parts of the memory that add up."""
    return {part: size for part, size in case["memory"].items() if part not in ("weights", "state")}


def _bytes(count: float | int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"
