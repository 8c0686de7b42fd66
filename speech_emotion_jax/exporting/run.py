"""`speech-emotion-jax export`: write a checkpoint as programs that run without this package.

The folder contains JAX's exported programs, each for several platforms and any batch size, the parameters that they
share, and a script that runs them:

    programs/audio-512.jax ...   (parameters, waveforms (batch, samples), lengths (batch,)) to vectors (batch, width)
    programs/text-64.jax ...     (parameters, ids (batch, tokens), mask (batch, tokens)) to vectors (batch, width)
    programs/head.jax            (parameters, audio vectors, text vectors) to probabilities (batch, labels)
    parameters.safetensors       {path: array}, as `models.parameters` names them
    export.json                  labels, padded lengths and other settings for calling the programs
    tokenizer.json               only of the modes that take text
    run.py                       a copy of `standalone`

A recording or a text is padded to the length of the next larger program, which does not change the result. In a mode
without audio or without text, the head takes None for those vectors.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export as jax_export
from safetensors.numpy import save_file

from ..audio import MAX_SECONDS, MIN_SAMPLES, SAMPLE_RATE, features, samples_for
from ..checkpoints import Checkpoint, Request, load_resolved, resolve_emotion
from ..config import BertConfig, EmotionConfig
from ..errors import InvalidInput
from ..inference import FRAME_BUCKETS, TOKEN_BUCKETS
from ..models import parameters_of, with_parameters
from ..runtime.addresses import is_remote
from ..runtime.atomic import atomic_folder, check_disk_space
from ..runtime.console import align_columns
from ..runtime.devices import select_device
from ..runtime.precision import check_precision
from ..runtime.progress import progress
from ..text import load_fast_tokenizer
from . import standalone

PLATFORMS = ("tpu", "cuda", "cpu")
KNOWN_PLATFORMS = (*PLATFORMS, "rocm")
SCHEMA = 1


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export.

    Attributes:
        request: the checkpoint.
        output: the folder to make.
        platforms: some of KNOWN_PLATFORMS. A GPU is "cuda" or "rocm".
        seconds: lengths of recordings to write a program for, each rounded up to the next of FRAME_BUCKETS.
        precision: "float32" or "bfloat16".
    """

    request: Request
    output: str
    platforms: tuple[str, ...] = PLATFORMS
    seconds: tuple[float, ...] = (5.0, 10.0, 20.0, 30.0)
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InvalidInput: if one of them can't be used.
        """
        check_precision(self.precision)
        if odd := [name for name in self.platforms if name not in KNOWN_PLATFORMS]:
            raise InvalidInput(f"the platform {odd[0]!r} is unknown; choose some of {', '.join(KNOWN_PLATFORMS)}")
        if odd := [each for each in self.seconds if not 0 < each <= MAX_SECONDS]:
            raise InvalidInput(
                f"no program takes recordings of {odd[0]:g} s; name lengths above 0 and up to {MAX_SECONDS:g}, "
                "where the models cut longer ones"
            )
        if is_remote(self.output):
            raise InvalidInput(f"{self.output} is not on a disk; export to a local folder and copy it there")
        if Path(self.output).exists():  # checked here, before a download
            raise InvalidInput(f"{self.output} exists already; name another folder or remove it")


class Cost(NamedTuple):
    """The size of an exported file, and the time that it saves.

    Attributes:
        file: its name in the folder.
        bytes: its size.
        load: seconds to load it.
        package: seconds that this package takes to make its content from the checkpoint.
    """

    file: str
    bytes: int
    load: float
    package: float


class Report(NamedTuple):
    """The result of an export: the folder, its platforms, and the cost of each file."""

    folder: str
    platforms: tuple[str, ...]
    costs: list[Cost]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return self._asdict() | {"costs": [cost._asdict() for cost in self.costs]}


class _Program(NamedTuple):
    """A function to export: it takes the parameters and arrays whose first axis, the batch, is symbolic."""

    name: str
    function: Callable[..., jax.Array]
    inputs: tuple[jax.ShapeDtypeStruct | None, ...]


def export(job: ExportConfig) -> Report:
    """Export a checkpoint, then load the files again to measure the time.

    The time of this package, with which loading is compared, is for reading the checkpoint (a converted one is
    memory-mapped and read on first use) and for tracing and lowering each program. Compiling follows in both cases and
    is not counted.

    Args:
        job: the settings.

    Returns:
        The folder and the cost of each file.

    Raises:
        InvalidInput: if the checkpoint can't be exported.
        UnreadableInput: if the checkpoint can't be read or the folder can't be written. Nothing is left behind.
    """
    info = resolve_emotion(job.request)
    started = time.perf_counter()
    checkpoint = load_resolved(info, select_device("cpu"), job.precision)
    parameters = {path: np.asarray(array) for path, array in parameters_of(checkpoint.model).items()}
    package = {"parameters.safetensors": time.perf_counter() - started}
    with atomic_folder(Path(job.output)) as folder:
        _write_parameters(folder / "parameters.safetensors", parameters)
        _write_programs(folder / "programs", checkpoint, parameters, job, package)
        if checkpoint.config.text is not None:
            _write_tokenizer(folder / "tokenizer.json", checkpoint.text_folder, checkpoint.config.text.max_tokens)
        settings = _settings(checkpoint, job) | {
            "source": {"model": job.request.model_id, "sha256": info.weight_digests()}
        }
        content = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
        (folder / "export.json").write_text(content, encoding="utf-8")
        shutil.copyfile(standalone.__file__, folder / "run.py")
        del checkpoint, parameters  # they are loaded again below, and memory may not hold them twice
        costs = [_cost(folder, file, seconds) for file, seconds in package.items()]
    return Report(job.output, job.platforms, costs)


def render_export(report: Report) -> str:
    """Render an export as a table for the terminal."""
    rows = [("", "MB", "loads in", "package"), *(_row(*cost) for cost in report.costs)]
    if len(report.costs) > 1:
        _, sizes, *seconds = zip(*report.costs, strict=True)
        rows.append(_row("together", sum(sizes), *map(sum, seconds)))
    return "\n".join(
        [
            f"wrote {report.folder}, which runs on {', '.join(report.platforms)}",
            *align_columns(rows),
            "(package: reading the checkpoint, tracing and lowering; compiling comes after, for both)",
            f"try it: python {report.folder}/run.py --help",
        ]
    )


def _row(name: str, size: int, load: float, package: float) -> tuple[str, str, str, str]:
    return name, f"{size / 1e6:.2f}", f"{load:.2f} s", f"{package:.2f} s"


def _write_parameters(file: Path, parameters: dict[str, np.ndarray]) -> None:
    check_disk_space(file.parent, sum(array.nbytes for array in parameters.values()))
    file.touch()
    permissions = file.stat().st_mode
    with progress("Writing the parameters"):
        save_file({path: np.ascontiguousarray(array) for path, array in parameters.items()}, file)
    file.chmod(permissions)  # safetensors creates a file that only its owner can read.


def _write_programs(
    folder: Path,
    checkpoint: Checkpoint,
    parameters: dict[str, np.ndarray],
    job: ExportConfig,
    seconds: dict[str, float],
) -> None:
    """Trace, lower and write each program, and add the time of each to `seconds`."""
    folder.mkdir()
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in parameters.items()}
    programs = list(_programs(checkpoint, job.seconds))
    with progress(f"Exporting {len(programs)} programs", len(programs)) as advance, _bare_file_names():
        for program in programs:
            file, started = folder / f"{program.name}.jax", time.perf_counter()
            lowered = jax_export.export(jax.jit(program.function), platforms=job.platforms)(shapes, *program.inputs)
            seconds[f"{folder.name}/{file.name}"] = time.perf_counter() - started
            file.write_bytes(lowered.serialize())
            advance(1)


@contextmanager
def _bare_file_names() -> Iterator[None]:
    """Record only the file name of each operation's source line, not its folder on this machine."""
    setting = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, setting)
    jax.config.update(setting, ".*/")
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _programs(checkpoint: Checkpoint, seconds: tuple[float, ...]) -> Iterator[_Program]:
    config = checkpoint.config
    (batch,) = jax_export.symbolic_shape("batch")

    def rows(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *shape), dtype)

    def audio(parameters: dict[str, jax.Array], waveforms: jax.Array, lengths: jax.Array) -> jax.Array:
        frames, mask = features(waveforms, lengths)
        return with_parameters(config, parameters).encode_audio(frames, mask)

    def text(parameters: dict[str, jax.Array], ids: jax.Array, mask: jax.Array) -> jax.Array:
        return with_parameters(config, parameters).encode_text(ids, mask)

    def head(parameters: dict[str, jax.Array], audio: jax.Array | None, text: jax.Array | None) -> jax.Array:
        model = with_parameters(config, parameters)
        return model.probabilities(model.classify(audio, text))

    widths: list[int | None] = [None, None]
    if config.audio is not None:
        widths[0] = config.projection_width
        for name, samples in _audio_programs(seconds).items():
            yield _Program(name, audio, (rows(samples), rows(dtype=np.int32)))
    if config.text is not None:
        widths[1] = config.text.hidden_size
        for name, tokens in _text_programs(config.text).items():
            yield _Program(name, text, (rows(tokens, dtype=np.int32), rows(tokens, dtype=bool)))
    yield _Program("head", head, tuple(None if width is None else rows(width) for width in widths))


def _audio_programs(seconds: tuple[float, ...]) -> dict[str, int]:
    """Return {name: samples} of the programs for recordings of these seconds, the shortest first."""
    needed = {next(each for each in FRAME_BUCKETS if samples_for(each) >= length * SAMPLE_RATE) for length in seconds}
    return {f"audio-{frames}": samples_for(frames) for frames in sorted(needed)}


def _text_programs(config: BertConfig) -> dict[str, int]:
    """Return {name: tokens} of the programs for texts, the shortest first."""
    lengths = sorted({min(each, config.max_tokens) for each in TOKEN_BUCKETS})
    return {f"text-{tokens}": tokens for tokens in lengths}


def _write_tokenizer(file: Path, folder: Path, max_tokens: int) -> None:
    rules = load_fast_tokenizer(folder, max_tokens)
    if rules is None:
        raise InvalidInput(
            f"the tokenizer in {folder} is written in Python and can't be exported; save its fast form there"
        )
    file.write_text(rules.to_str(pretty=True), encoding="utf-8")


def _settings(checkpoint: Checkpoint, job: ExportConfig) -> dict[str, Any]:
    """Return the content of export.json: settings for `standalone`, and facts for a person."""
    config: EmotionConfig = checkpoint.config
    audio = text = None
    if config.audio is not None:
        audio = {
            "sample_rate": SAMPLE_RATE,  # hertz, mono, full scale 1
            "least_samples": MIN_SAMPLES,
            "programs": _audio_programs(job.seconds),  # {name: samples}; pad a recording at its end
        }
    if config.text is not None:
        text = {"pad_token": config.text.pad_token_id, "programs": _text_programs(config.text)}
    return {
        "schema": SCHEMA,
        "mode": config.mode,
        "language": checkpoint.language,
        "labels": list(config.labels),
        "multi_label": config.multi_label,
        "precision": job.precision,
        "platforms": list(job.platforms),
        "audio": audio,
        "text": text,
        "jax": jax.__version__,
    }


def _cost(folder: Path, file: str, package: float) -> Cost:
    started = time.perf_counter()
    if file.endswith(".jax"):
        standalone.load_program(folder / file)
    else:
        jax.block_until_ready(jax.device_put(standalone.load_file(folder / file)))
    return Cost(file, (folder / file).stat().st_size, time.perf_counter() - started, package)
