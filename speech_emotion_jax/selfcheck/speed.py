"""Speed and memory of one device. Nothing here can fail; what does not fit is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..audio import FEATURE_DIM
from ..benchmarking import concat_config, peak_memory, random_parameters
from ..config import EmotionConfig
from ..models import attend, attend_in_blocks, audio_encoder_flops, with_parameters
from ..runtime.precision import parameter_dtype
from .attention import LEFT, RIGHT
from .checks import Clock, Measurement

SIDE = {"cpu": 2048}  # of the matrices that are multiplied; 8192 elsewhere
TURNS = 5
FLAT = 1.05  # a batch twice as large that is not this much faster ends the sweep
RESERVE = 30.0  # seconds that are left for the report


def measure_matmul(device: jax.Device, precision: str) -> Measurement:
    """Measure the rate of a large square matrix product."""
    side = SIDE.get(device.platform, 8192)
    a, b = (
        jax.device_put(np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32), device).astype(
            precision
        )
        for seed in range(2)
    )
    highest = jax.lax.Precision.HIGHEST if precision == "float32" else None
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=highest, preferred_element_type=jnp.float32))
    seconds = _seconds(lambda: product(a, b))
    return Measurement(f"matrix product, {precision}", 2 * side**3 / seconds / 1e12, "TFLOP/s", f"{side} x {side}")


def measure_encoder(
    device: jax.Device, clock: Clock, layers: int | None, precision: str, rate: float
) -> Iterator[Measurement]:
    """Measure the audio encoder at 10 and 30 s, the batch doubled until the speed is flat.

    Args:
        device: the device.
        clock: the time that is left.
        layers: None for the published size, or fewer layers.
        precision: "float32" or "bfloat16".
        rate: the rate of `measure_matmul`, in TFLOP/s.

    Yields:
        Speed, fraction of the matmul rate, and memory, for each length.
    """
    concat = concat_config(layers)
    config = EmotionConfig.of("audio", concat.labels, concat.audio, None)
    assert config.audio is not None
    parameters = {
        path: jax.device_put(array.astype(parameter_dtype(path, precision)), device)
        for path, array in random_parameters(config).items()
    }
    size = "published size" if layers is None else f"{layers} layer{'s' * (layers > 1)} of the published width"
    for seconds_of_sound in (10, 30):
        frames = 50 * seconds_of_sound
        best = (0.0, 0, 0.0)  # clips a second, batch, seconds
        batch = 1
        while clock.left > RESERVE:
            try:
                took = _seconds(_encoder(config, parameters, device, batch, frames), clock)
            except (RuntimeError, MemoryError):  # JAX says so where the batch does not fit
                break
            speed = batch / took
            flat = speed < FLAT * best[0]
            if speed > best[0]:
                best = (speed, batch, took)
            if flat or (device.platform == "cpu" and batch >= 4):
                break
            batch *= 2
        speed, batch, _ = best
        if not batch:
            continue
        setting = f"{size}, {precision}, batch {batch}"
        yield Measurement(f"encoder, {seconds_of_sound} s", speed * seconds_of_sound, "s of sound a second", setting)
        share = speed * audio_encoder_flops(config.audio, frames) / 1e12 / rate
        yield Measurement(f"encoder, {seconds_of_sound} s, of the matmul rate", 100 * share, "%", setting)
    yield Measurement("memory, peak", _peak(device) / 1e9, "GB", size)


def measure_attention(device: jax.Device, clock: Clock) -> Iterator[Measurement]:
    """Measure this device's attention beside plain XLA in blocks, forward and with the gradient."""
    batch, frames, heads = (1, 500, 4) if device.platform == "cpu" else (16, 1500, 16)
    rng = np.random.default_rng(0)
    query, key, value = (
        jax.device_put(rng.normal(size=(batch, frames, heads, 64)).astype(np.float32), device) for _ in range(3)
    )
    distances = jax.device_put(rng.normal(size=(LEFT + RIGHT + 1, 64)).astype(np.float32), device)
    mask = jax.device_put(np.ones((batch, frames), bool), device)
    kernels: dict[str, Callable[..., jax.Array]] = {
        "this device's": lambda q, k, v, e: attend(q, k, v, mask, dtype=jnp.dtype("bfloat16"), distances=e, left=LEFT),
        "plain XLA": lambda q, k, v, e: attend_in_blocks(q, k, v, mask, e, dtype=jnp.dtype("bfloat16"), left=LEFT),
    }
    for name, kernel in kernels.items():
        gradient = jax.grad(lambda *inputs, kernel=kernel: kernel(*inputs).sum(), argnums=(0, 1, 2, 3))
        for what, program in (("forward", jax.jit(kernel)), ("gradient", jax.jit(gradient))):
            if clock.left < RESERVE:
                return
            took = _seconds(partial(program, query, key, value, distances), clock)
            setting = f"{batch} x {frames} frames, {heads} heads"
            yield Measurement(f"attention, {name}, {what}", 1e3 * took, "ms", setting)


def measure_torch(device: jax.Device, clock: Clock, layers: int | None, precision: str) -> Iterator[Measurement]:
    """Measure transformers' PyTorch encoder on the same GPU, if PyTorch is installed and sees one."""
    if device.platform != "gpu" or clock.left < RESERVE:
        return
    try:
        import torch
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    configuration = Wav2Vec2BertConfig()
    configuration.num_hidden_layers = layers or configuration.num_hidden_layers
    model: Any = Wav2Vec2BertModel(configuration)
    model = model.to("cuda", getattr(torch, precision)).eval()
    for seconds_of_sound, batch in ((10, 16), (30, 4)):
        features = torch.randn(
            batch, 50 * seconds_of_sound, FEATURE_DIM, device="cuda", dtype=getattr(torch, precision)
        )

        def run(features: torch.Tensor = features) -> None:
            with torch.inference_mode():
                model(features)
            torch.cuda.synchronize()

        took = _seconds(run, clock)
        name = f"PyTorch's encoder, {seconds_of_sound} s"
        yield Measurement(name, batch * seconds_of_sound / took, "s of sound a second", f"{precision}, batch {batch}")


def _encoder(
    config: EmotionConfig, parameters: dict[str, jax.Array], device: jax.Device, batch: int, frames: int
) -> Callable[[], object]:
    features = jax.device_put(np.zeros((batch, frames, FEATURE_DIM), np.float32), device)
    mask = jax.device_put(np.ones((batch, frames), bool), device)
    program = jax.jit(lambda parameters: with_parameters(config, parameters).encode_audio(features, mask))
    return partial(program, parameters)


def _seconds(run: Callable[[], object], clock: Clock | None = None) -> float:
    """Return the median time of some runs, after one that compiles."""
    jax.block_until_ready(run())
    found = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - begun)
        if clock is not None and clock.left < RESERVE:
            break
    return median(found)


def _peak(device: jax.Device) -> int:
    """Return the most bytes that were in use: of the device where it counts them, else of the process."""
    statistics = device.memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0) or peak_memory()
