"""Compile in advance, from shapes alone, what predictions need. Later processes find the programs on disk.

The weights of the emotion model are neither loaded nor multiplied. A compiled program fits one kind of device and one
number of devices.
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
from ..runtime.compile_cache import cached_programs, compile_cache_folder, enable_compile_cache
from ..runtime.devices import select_device, select_mesh
from ..runtime.progress import progress
from ..whisper import TranscriptionOptions, WhisperPipeline
from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, bucket, padded_sizes
from .scorer import Scorer

Compile = Callable[[], object]

TRANSCRIBED_AT_ONCE = 4  # Windows of 30 s that `predict_emotion` transcribes together.


class WarmupResult(NamedTuple):
    """What a warm-up did.

    Attributes:
        programs: Number of programs in the cache now.
        compiled: Number of programs that were added.
        seconds: Time taken.
        longest: Length in seconds of the longest clip that the programs take; None if the mode has no audio.
        folder: Where the programs are.
    """

    programs: int
    compiled: int
    seconds: float
    longest: float | None
    folder: str


def warm_up(
    request: Request,
    *,
    seconds: float = 30.0,
    batch_size: int = 1,
    precision: str = "float32",
    device: object = None,
    whisper: str | None = None,
) -> WarmupResult:
    """Compile what is needed to predict clips of up to a length and texts of any length.

    Args:
        request: The checkpoint.
        seconds: Length of the longest clip.
        batch_size: The largest number of clips that are computed together.
        precision: "float32" or "bfloat16".
        device: As in `select_mesh`. On several devices everything is compiled for one of them, which predicts, and for
            all of them, which evaluate with `batch_size` clips each.
        whisper: A hub id or folder of a transcriber. It is loaded and run on silence.

    Raises:
        InvalidInput: An argument can't be used, or the cache is turned off.
        UnreadableInput: A file or download is missing or broken.
    """
    if batch_size < 1:
        raise InvalidInput(f"the batch size is {batch_size}; it must be at least 1")
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"{seconds:g} seconds is not a valid clip length; name one above 0")
    folder = compile_cache_folder()
    if folder is None:
        raise InvalidInput("JAX_ENABLE_COMPILATION_CACHE is false, so that no program would be kept; unset it")
    if not enable_compile_cache():
        raise InvalidInput(f"no program can be kept in {folder}; let SPEECH_EMOTION_JAX_CACHE name another folder")
    started, before = time.perf_counter(), cached_programs(folder)
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
            _transcribe_silence(WhisperPipeline.from_pretrained(whisper, precision=precision, device=place), batch_size)
    longest = None if scorers[0].config.audio is None else min(seconds, MAX_SECONDS)
    after = cached_programs(folder)
    elapsed = time.perf_counter() - started
    compiled = len(after.keys() - before.keys())
    return WarmupResult(len(after), compiled, elapsed, longest, folder)


def render_warmup(result: WarmupResult) -> str:
    """Format the result as one line for the terminal."""
    clips = "" if result.longest is None else f", for clips of up to {result.longest:.4g} s"
    clips += ", where longer ones are cut" * (result.longest == MAX_SECONDS)
    compiled, total = (f"{count} program{'s' * (count != 1)}" for count in (result.compiled, result.programs))
    return f"compiled {compiled} in {result.seconds:.0f} s{clips}; {total} in {result.folder}"


def _steps(scorer: Scorer, seconds: float, batch_size: int) -> Iterator[Compile]:
    """Yield what compiles each program, the largest shapes first, which take longest."""
    rows = [scorer.mesh.size * each for each in padded_sizes(batch_size)]
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


def _transcribe_silence(pipeline: WhisperPipeline, batch_size: int) -> None:
    """Transcribe silence as `predict` and `evaluate` transcribe: greedily, in a given language."""
    silence = {"array": np.zeros(SAMPLE_RATE, np.float32), "sampling_rate": SAMPLE_RATE}
    sizes = padded_sizes(max(batch_size, TRANSCRIBED_AT_ONCE))
    with progress("Compiling the transcriber", len(sizes)) as advance:
        for size in sizes:
            pipeline.transcribe([silence] * size, TranscriptionOptions(language="es", batch_size=size))
            advance(1)
    pipeline.close()
