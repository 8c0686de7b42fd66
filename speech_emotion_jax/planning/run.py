"""`speech-emotion-jax plan`: estimate memory and time of a run on chips that this machine does not have.

The real program is compiled for the chips by their own compiler, and its work is counted (`planning.hlo`). Products,
bytes to and from memory, and bytes between chips each take some time at the chip's peak. The longest of the three is
the roofline, a lower bound of the time. It is an estimate; nothing has run.
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
from ..runtime.console import align_columns
from ..runtime.precision import check_precision
from ..runtime.progress import progress
from ..runtime.storage import Folder
from .chips import Topology
from .compile import compile_for_chips
from .figure import draw
from .programs import bucketed_tokens, model_flops

JSON, FIGURE = "plan.json", "plan.png"
HEAD = ("topology", "chips", "batch", "memory used", "share", "compute", "memory", "network", "bound")
Case = dict[str, Any]


@dataclass(frozen=True)
class PlanConfig:
    """Settings of a plan: each topology is planned with each batch size.

    Attributes:
        topologies: names such as "v5e:2x4".
        mode: the mode of the model.
        language: the language of the model.
        batch_sizes: clips, or texts in mode "text", of all chips together.
        per_chip: batch sizes count for each chip.
        seconds: length of each clip.
        tokens: length of each text.
        precision: "float32" or "bfloat16".
        train: plan a training step, not a prediction.
        largest: also search the largest batch that fits, in steps of at most an eighth.
        output: folder for plan.json and plan.png; None: nothing is written.
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
        """Check the settings.

        Raises:
            InvalidInput: if one of them can't be planned.
        """
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
        for topology in self.parse_topologies():
            for size in self.batch_sizes:
                if not self.per_chip and size % topology.chips:
                    raise InvalidInput(
                        f"a batch of {size} can't be divided over the {topology.chips} chips of {topology.name}; "
                        "choose a multiple"
                    )

    def parse_topologies(self) -> list[Topology]:
        """Return the topologies of the names.

        Raises:
            InvalidInput: if a name is unknown.
        """
        return [Topology.parse(name) for name in self.topologies]


def plan(job: PlanConfig) -> list[Case]:
    """Compile the programs of a plan and estimate their memory and time.

    Args:
        job: the settings.

    Returns:
        A case for each topology and batch size, in that order, then the largest batch of each topology. A case that
        does not fit has nothing after "fits" and "refusal". Its items are

            topology, chip, chips, mode, language, precision, train
            seconds         length of a clip; None: the mode takes no audio
            frames          the same in frames, with padding
            tokens          length of a text; None: the mode takes no text
            padded_tokens   the same with padding
            kernels         whether attention runs in a kernel, if one fits
            batch_size      of all chips
            fits, refusal   whether it fits into memory; if not, the reason
            memory          {part: bytes} of a chip
            share           fraction of the chip's memory that these parts take
            flops           of the products of a chip
            bytes           to and from a chip's memory
            bytes_by_kind   {operation: bytes}, which add up to `bytes`
            of_model        flops divided by those the model needs without padding and rematerialization
            collectives     {kind: {"count", "bytes"}}; the bytes are received by a chip
            times           {"compute", "memory", "network"}: seconds at the chip's peak
            bound           the longest of the three
            roofline        its seconds
            per_second      clips or texts per second of one chip, at most
            audio_hours     hours of audio per hour of one chip, at most; None: no audio
            compile_seconds what compiling took on this machine
            largest         whether this is the largest batch that fits

    Raises:
        InvalidInput: if the compiler for the chips is not installed, or the output is in the way.
    """
    cases: list[Case] = []
    # Compiling takes minutes, so a wrong output is refused first.
    folder = None if job.output is None else Folder.open(job.output)
    planned = [
        (topology, size * topology.chips if job.per_chip else size)
        for topology in job.parse_topologies()
        for size in job.batch_sizes
    ]
    if planned:
        with progress(f"Compiling {len(planned)} program{'s' * (len(planned) != 1)}", len(planned)) as advance:
            for topology, clips in planned:
                cases.append(_case(job, topology, clips))
                advance(1)
    if job.largest:
        for topology in job.parse_topologies():
            with progress(f"Looking for the largest batch on {topology.name}"):
                cases.append(_largest(job, topology))
    if folder is not None:
        folder.make()
        folder.write(JSON, (json.dumps(cases, indent=1) + "\n").encode())
        folder.write(FIGURE, draw(cases, _title(cases[0])))
    return cases


def render_plan(cases: Sequence[Case]) -> str:
    """Render a plan for a terminal: one case in full, or several as a table."""
    first = cases[0]
    lines = [
        _title(first),
        "compiled for the chips and counted: an estimate, nothing has run",
        "",
    ]
    return "\n".join([*lines, *(_in_full(first) if len(cases) == 1 else _table(cases))])


def _title(case: Case) -> str:
    """Describe what all cases of a plan have in common."""
    return (
        f"{'training step' if case['train'] else 'prediction'}, {case['mode']}, {case['language']}, "
        f"{case['precision']}"
        + (f", clips of {case['seconds']:g} s" if case["seconds"] else "")
        + (f" ({case['frames']} frames with padding)" if case.get("frames") else "")
        + (f", texts of {case['tokens']} tokens ({case['padded_tokens']} with padding)" if case["tokens"] else "")
        + ("" if case["kernels"] else ", without kernels")
    )


def _of_batch(case: Case) -> str:
    """Return the batch size in words: "64 clips"."""
    return f"{case['batch_size']} {'clips' if case['seconds'] else 'texts'}"


def _case(job: PlanConfig, topology: Topology, clips: int) -> Case:
    takes_audio, takes_text = job.mode != "text", job.mode != "audio"
    case: Case = {
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "mode": job.mode,
        "language": job.language,
        "precision": job.precision,
        "train": job.train,
        "kernels": kernels_enabled(),
        "seconds": job.seconds if takes_audio else None,
        "tokens": job.tokens if takes_text else None,
        "padded_tokens": bucketed_tokens(job.tokens) if takes_text else None,
        "batch_size": clips,
        "largest": False,
    }
    shared = {name: case[name] for name in ("topology", "mode", "language", "precision", "train")}
    counts = compile_for_chips({**shared, "seconds": job.seconds, "tokens": job.tokens, "clips": clips})
    if "refused" in counts:
        return case | {"fits": False, "refusal": counts["refused"]}
    chip = topology.chip
    peak = chip.bfloat16 if job.precision == "bfloat16" else chip.float32
    needed = model_flops(EmotionConfig.published(job.language, job.mode), job.seconds, job.tokens, train=job.train)
    received = sum(each["bytes"] for each in counts["collectives"].values())
    times = {
        "compute": counts["flops"] / peak,
        "memory": counts["bytes"] / chip.bandwidth,
        "network": received / chip.network,
    }
    bound = max(times, key=lambda name: times[name])
    total = sum(size for part, size in counts["memory"].items() if part not in ("weights", "state"))
    fits = total <= chip.memory
    per_second = clips / topology.chips / times[bound]
    return case | {
        "fits": fits,
        "refusal": None if fits else f"needs {_bytes(total)} of {_bytes(chip.memory)}",
        "frames": counts["frames"],
        "memory": counts["memory"],
        "share": total / chip.memory,
        "flops": counts["flops"],
        "of_model": counts["flops"] / (needed * clips / topology.chips),
        "bytes": counts["bytes"],
        "bytes_by_kind": counts["bytes_by_kind"],
        "collectives": counts["collectives"],
        "times": times,
        "bound": bound,
        "roofline": times[bound],
        "per_second": per_second,
        "audio_hours": per_second * job.seconds if takes_audio else None,
        "compile_seconds": counts["seconds"],
    }


def _largest(job: PlanConfig, topology: Topology) -> Case:
    """Search the largest batch that fits, among 1, 2, ... 16, 18, 20, ... 32, 36, ... clips on each chip."""
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
    return [*align_columns(rows), *refusals]


def _parts(case: Mapping[str, Any]) -> dict[str, int]:
    """Return the parts of the memory that add up: "weights" and "state" are within "arguments"."""
    return {part: size for part, size in case["memory"].items() if part not in ("weights", "state")}


def _bytes(count: float | int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"
