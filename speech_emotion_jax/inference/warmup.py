"""Compiles ahead what predictions need, from shapes alone: the processes that come find it on the disk.

The weights of the emotion model are neither loaded nor multiplied. A program fits one kind of device, and one number
of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..audio import FRAME_SAMPLES, MAX_SAMPLES, MAX_SECONDS, SAMPLE_RATE, fbank_energies, feature_frames
from ..checkpoints import Request, abstract_checkpoint, resolve_emotion
from ..errors import InvalidInput
from ..runtime.compile_cache import keep_programs, kept_programs, programs_folder
from ..runtime.devices import select_device, select_mesh
from ..runtime.progress import progress
from ..whisper import TranscriptionOptions, WhisperPipeline
from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, bucket
from .scorer import Scorer

Compile = Callable[[], object]

TRANSCRIBED_AT_ONCE = 4  # windows of 30 s, by `predict_emotion`


class Warmed(NamedTuple):
    """What was done: how many programs are kept now, how many of them are new, for clips of which length, and where."""

    programs: int
    compiled: int
    seconds: float
    longest: float | None  # seconds of the clips that these programs take; None: no sound
    folder: str


def warm_up(
    request: Request,
    *,
    seconds: float = 30.0,
    batch_size: int = 1,
    precision: str = "float32",
    device: object = None,
    whisper: str | None = None,
) -> Warmed:
    """Compile what predicts clips of up to so many seconds and texts of any length, up to `batch_size` at a time.

    With `whisper`, a hub id or a folder, also what transcribes clips without text: it is loaded, and hears silence.

    `device` is as in `select_mesh`: on several devices it is compiled for one, which predicts, and for all of them,
    which evaluate with `batch_size` clips each. Raises InvalidInput or UnreadableInput.
    """
    if batch_size < 1:
        raise InvalidInput(f"the batch size is {batch_size}; it must be at least 1")
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"{seconds:g} seconds are no length of a clip; name one above 0")
    folder = programs_folder()
    if folder is None:
        raise InvalidInput("JAX_ENABLE_COMPILATION_CACHE is false, so that no program would be kept; unset it")
    if not keep_programs():
        raise InvalidInput(f"no program can be kept in {folder}; let SPEECH_EMOTION_JAX_CACHE name another folder")
    started, before = time.perf_counter(), kept_programs(folder)
    info = resolve_emotion(request)
    meshes = {select_mesh(select_device(device)), select_mesh(device)}
    scorers = [
        Scorer(abstract_checkpoint(info, NamedSharding(mesh, PartitionSpec()), precision), mesh) for mesh in meshes
    ]
    steps = [step for scorer in scorers for step in _steps(scorer, seconds, batch_size)]
    with progress(f"Compiling {len(steps)} shapes", len(steps)) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for step in as_completed([pool.submit(step) for step in steps]):
                step.result()
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if whisper is not None:
        for place in [select_device(device), device][: len(meshes)]:
            _hear_silence(WhisperPipeline.from_pretrained(whisper, precision=precision, device=place), batch_size)
    longest = None if scorers[0].config.audio is None else min(seconds, MAX_SECONDS)
    kept = kept_programs(folder)
    taken = time.perf_counter() - started
    compiled = len(kept.keys() - before.keys())
    return Warmed(len(kept), compiled, taken, longest, folder)


def render_warmup(warmed: Warmed) -> str:
    """One line for the terminal."""
    clips = "" if warmed.longest is None else f", for clips of up to {warmed.longest:.4g} s"
    clips += ", where longer ones are cut" * (warmed.longest == MAX_SECONDS)
    compiled, kept = (f"{count} program{'s' * (count != 1)}" for count in (warmed.compiled, warmed.programs))
    return f"compiled {compiled} in {warmed.seconds:.0f} s{clips}; {kept} in {warmed.folder}"


def _steps(scorer: Scorer, seconds: float, batch_size: int) -> Iterator[Compile]:
    """What is to be compiled, the largest shapes first: they take the longest."""
    rows = [scorer.mesh.size * each for each in _sizes(batch_size)]
    samples = round(seconds * SAMPLE_RATE)
    if scorer.config.audio is not None:
        longest = bucket(max(1, feature_frames(samples)), FRAME_BUCKETS)
        if samples > MAX_SAMPLES:
            blocks = jax.ShapeDtypeStruct((1, MAX_SAMPLES + FRAME_SAMPLES), np.float32)
            yield fbank_energies.lower(blocks).compile
            yield from (partial(scorer.compile_audio, count, longest, truncated=True) for count in rows)
        for frames in reversed([each for each in FRAME_BUCKETS if each <= longest]):
            yield from (partial(scorer.compile_audio, count, frames) for count in rows)
    if scorer.config.text is not None:
        lengths = {min(each, scorer.config.text.max_tokens) for each in TOKEN_BUCKETS}
        yield from (partial(scorer.compile_text, count, length) for length in lengths for count in rows)
    yield from (partial(scorer.compile_head, count) for count in rows)


def _hear_silence(pipeline: WhisperPipeline, batch_size: int) -> None:
    """As `predict` and `evaluate` transcribe: greedily, in a language that is known."""
    silence = {"array": np.zeros(SAMPLE_RATE, np.float32), "sampling_rate": SAMPLE_RATE}
    sizes = _sizes(max(batch_size, TRANSCRIBED_AT_ONCE))
    with progress("Compiling the transcriber", len(sizes)) as advance:
        for size in sizes:
            pipeline.transcribe([silence] * size, TranscriptionOptions(language="es", batch_size=size))
            advance(1)
    pipeline.close()


def _sizes(batch_size: int) -> list[int]:
    """How many clips get together: powers of two below the most, and the most."""
    return [*(1 << power for power in range((batch_size - 1).bit_length())), batch_size]
