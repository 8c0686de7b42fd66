"""Checkpoints against their goldens, a training step, and sharding."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..audio import FEATURE_DIM
from ..benchmarking import concat_config, random_checkpoint, random_parameters
from ..checkpoints import Request
from ..config import EmotionConfig
from ..errors import SpeechEmotionError
from ..models import with_parameters
from ..parity import ParityConfig, parity
from ..runtime.sharding import parameter_shardings
from ..training import TrainingMethod, jit_step
from .checks import Check, limited, stopwatch

LAYERS, WIDTH = 2, 128  # of the random checkpoint
CLIPS, FRAMES = 8, 100
STEPS = 5
SHARDED_LIMIT = 1e-5  # on probabilities; float32 sums of another order
STEP_LIMIT = 1e-5  # on the loss of the first step


def random_config() -> EmotionConfig:
    """Return the architecture of the small random checkpoint, mode concat."""
    return concat_config(LAYERS, WIDTH)


def check_goldens(device: jax.Device, home: Path, precisions: tuple[str, ...]) -> Iterator[Check]:
    """Hold the demo's checkpoint and a small RANDOM one against what PyTorch made of them.

    Args:
        device: the device to check.
        home: a folder for the random checkpoint, which is made there from a seed.
        precisions: of "float32" and "bfloat16".

    Yields:
        A check for each checkpoint and precision. The value is the largest fraction of a budget that is used.
    """
    package = files(__package__ or "speech_emotion_jax.selfcheck")
    with as_file(files("speech_emotion_jax") / "demo_data") as demo, as_file(package / "goldens") as goldens:
        random = random_checkpoint(random_config(), home).published
        for name, folder in (("demo", demo / "checkpoint"), ("random", random)):
            for precision in precisions:
                golden = str(goldens / f"{name}.safetensors")
                request = Request(str(folder), "concat", "es")
                title = f"golden of the {name} checkpoint, {precision}"
                with stopwatch() as seconds:
                    try:
                        result = parity(ParityConfig(request, precision=precision, device=device, against=golden))
                    except SpeechEmotionError as error:
                        yield Check(title, None, 1.0, False, str(error), seconds())
                        continue
                    used = max(stage.budget_used for verdict in result.verdicts for stage in verdict.rows)
                    yield Check(title, used, 1.0, result.passed, result.first_failure or "", seconds())


def check_training(devices: list[jax.Device]) -> Iterator[Check]:
    """Train a small RANDOM model on one batch, on one device and on all of them.

    Yields:
        A check that the loss falls, and one that all devices together compute the loss of one.
    """
    with stopwatch() as seconds:
        losses = _losses(devices[:1])
        fell = losses[-1] / losses[0]
        yield limited(
            f"training, loss after {STEPS} steps, relative to the first",
            fell,
            1.0 - 1e-3,
            seconds(),
            f"{losses[0]:.4f} to {losses[-1]:.4f}",
        )
    name = "training, first loss on all devices against one"
    if len(devices) == 1:
        yield Check(name, None, STEP_LIMIT, None, "there is one device")
        return
    with stopwatch() as seconds:
        together = _losses(devices)
        yield limited(name, abs(together[0] - losses[0]) / losses[0], STEP_LIMIT, seconds(), f"{len(devices)} devices")


def _losses(devices: list[jax.Device]) -> list[float]:
    """Return the losses of some steps of AdamW on one batch that is divided over the devices."""
    config = random_config()
    mesh = Mesh(np.array(devices)[:, None], ("data", "fsdp"))
    rng = np.random.default_rng(0)
    labels = len(config.labels)
    clips = -(-CLIPS // len(devices)) * len(devices)
    of = rng.integers(labels, size=clips)
    batch = {
        "features": rng.normal(size=(1, clips, FRAMES, FEATURE_DIM)).astype(np.float32) + of[None, :, None, None],
        "frame_mask": np.ones((1, clips, FRAMES), bool),
        "ids": rng.integers(5, 100, size=(1, clips, 12)).astype(np.int32),
        "token_mask": np.ones((1, clips, 12), bool),
        "labels": of[None].astype(np.int32),
        "valid": (np.arange(clips) < CLIPS)[None],
    }
    by_clip = NamedSharding(mesh, PartitionSpec(None, "data"))
    arrays = {name: jax.device_put(array, by_clip) for name, array in batch.items()}
    parameters = random_parameters(config)
    shardings = parameter_shardings({path: array.shape for path, array in parameters.items()}, mesh)
    learning = {path: jax.device_put(array, shardings[path]) for path, array in parameters.items()}
    method = TrainingMethod(config, optax.adamw(1e-3), jnp.ones(labels))
    state = method.init_state(learning)
    step = jit_step(method, method.shardings(learning, mesh), mesh)
    losses = []
    for _ in range(STEPS):
        state, measured = step(state, {}, arrays, None)
        losses.append(float(measured.loss))
    return losses


def check_sharding(devices: list[jax.Device]) -> Check:
    """Compare probabilities of a batch divided over all devices with those of one device."""
    name = "probabilities on all devices against one"
    if len(devices) == 1:
        return Check(name, None, SHARDED_LIMIT, None, "there is one device")
    config = random_config()
    rng = np.random.default_rng(0)
    clips = CLIPS * len(devices)
    frames = rng.integers(FRAMES // 2, FRAMES + 1, size=clips)
    features = rng.normal(size=(clips, FRAMES, FEATURE_DIM)).astype(np.float32)
    mask = np.arange(FRAMES)[None] < frames[:, None]
    ids, tokens = rng.integers(5, 100, size=(clips, 12)).astype(np.int32), np.ones((clips, 12), bool)
    parameters = random_parameters(config)

    @jax.jit
    def probabilities(parameters, features, mask, ids, tokens):
        model = with_parameters(config, parameters)
        logits = model.classify(model.encode_audio(features, mask), model.encode_text(ids, tokens))
        return model.probabilities(logits)

    found = []
    with stopwatch() as seconds:
        for some in (devices[:1], devices):
            mesh = Mesh(np.array(some), ("data",))
            here = jax.device_put(parameters, NamedSharding(mesh, PartitionSpec()))
            batch = jax.device_put((features, mask, ids, tokens), NamedSharding(mesh, PartitionSpec("data")))
            found.append(np.asarray(probabilities(here, *batch)))
        return limited(
            name, float(np.abs(found[0] - found[1]).max()), SHARDED_LIMIT, seconds(), f"{len(devices)} devices"
        )
