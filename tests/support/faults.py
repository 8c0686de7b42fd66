"""Seeded faults in a loaded model: what a parity check has to find. Drawn over all tensors and stages, not chosen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.parity.stages import FUSED, LOGITS, POOLED, layer

KINDS = ("a wrong weight", "swapped layers", "a transposed kernel", "a wrong epsilon", "a shifted position clamp")
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-12)  # of Flax, of torch, and of the checkpoints


class Fault(NamedTuple):
    """What was done, and the stage that it belongs to; `weights` where parameters were changed."""

    what: str
    stage: str
    weights: bool


def stage_of(path: str, index: int | None = None) -> str:
    """The stage in which a parameter or a module takes part, of a stack the layer of that index."""
    if path.startswith("audio_encoder.layers."):
        return layer("audio", (index or 0) + 1)
    if path.startswith("text_encoder.layers."):
        return layer("text", (index or 0) + 1)
    for prefix, stage in (
        ("audio_encoder.", layer("audio", 0)),
        ("text_encoder.", layer("text", 0)),
        ("projector.", POOLED),
        ("fusion.", FUSED),
        ("classifier.", LOGITS),
    ):
        if path.startswith(prefix):
            return stage
    raise AssertionError(path)


def damaged(model: EmotionModel, seed: int) -> tuple[EmotionModel, Fault]:
    """A copy of the model with one fault in it; its arrays are the model's own but for what was changed."""
    rng = np.random.default_rng(seed)
    copy = nnx.clone(model)
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "a shifted position clamp" and copy.audio_encoder is None:
        kind = "a wrong weight"
    if kind == "a wrong epsilon":
        return copy, _epsilon(copy, rng)
    if kind == "a shifted position clamp":
        attention = copy.audio_encoder.layers.self_attn
        attention.left += int(rng.choice([-1, 1]))
        return copy, Fault(f"left is {attention.left}", layer("audio", 1), weights=False)
    paths = sorted(parameters_of(copy))
    if kind == "swapped layers":
        paths = [path for path in paths if ".layers." in path]
    if kind == "a transposed kernel":
        paths = [path for path in paths if path.endswith("kernel")]
    path = str(rng.choice(paths))
    return copy, {"a wrong weight": _weight, "swapped layers": _swap, "a transposed kernel": _transpose}[kind](
        copy, path, rng
    )


def _weight(model: EmotionModel, path: str, rng: np.random.Generator) -> Fault:
    parameter = _parameter(model, path)
    array = np.array(parameter.get_value())
    place = tuple(int(rng.integers(size)) for size in array.shape)
    array[place] += rng.choice([-1, 1]) * max(abs(array[place]), array.std()) * rng.uniform(0.1, 2)
    parameter.set_value(jnp.asarray(array))
    return Fault(f"{path}{list(place)}", stage_of(path, place[0]), weights=True)


def _swap(model: EmotionModel, path: str, rng: np.random.Generator) -> Fault:
    """Of one tensor: two layers of it change places."""
    parameter = _parameter(model, path)
    array = np.array(parameter.get_value())
    one, other = sorted(int(each) for each in rng.choice(len(array), 2, replace=False))
    array[[one, other]] = array[[other, one]]
    parameter.set_value(jnp.asarray(array))
    return Fault(f"{path} of layers {one} and {other}", stage_of(path, one), weights=True)


def _transpose(model: EmotionModel, path: str, rng: np.random.Generator) -> Fault:
    """Read as if the file had its axes the other way round, of one layer where they are stacked."""
    parameter = _parameter(model, path)
    array = np.array(parameter.get_value())
    index = int(rng.integers(len(array))) if array.ndim > 2 else None
    kernel = array if index is None else array[index]
    turned = np.swapaxes(kernel, -1, -2).reshape(kernel.shape)
    if index is None:
        array = turned
    else:
        array[index] = turned
    parameter.set_value(jnp.asarray(array))
    return Fault(f"{path} of {index}", stage_of(path, index), weights=True)


def _epsilon(model: EmotionModel, rng: np.random.Generator) -> Fault:
    norms = {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.LayerNorm)
    }
    path = str(rng.choice(sorted(norms)))
    norm: Any = norms[path]
    norm.epsilon = float(rng.choice([each for each in EPSILONS if each != norm.epsilon]))
    return Fault(f"{path}.epsilon is {norm.epsilon}", stage_of(f"{path}."), weights=False)


def _parameter(model: EmotionModel, path: str) -> Any:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name)
    return found
