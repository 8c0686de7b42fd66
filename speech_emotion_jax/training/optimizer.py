"""AdamW with a learning rate for each part of a model, and frozen parameters.

Parameters are a flat dictionary {path: array}. The layers of an encoder are stacked in arrays with a leading layer
axis, so the learning rate of a layer is an entry of an array along that axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import InvalidInput
from .recipe import OptimizerConfig

ENCODERS = ("audio_encoder", "text_encoder")
ABOVE_LAYERS = ("intermediate_ffn", "adapter")  # parts of an encoder that stand on its layers
LOWEST = re.compile(r"(?P<encoder>\w+)\.layers\[:(?P<count>\d+)\]")

Shape = tuple[int, ...]


def make_optimizer(
    settings: OptimizerConfig, shapes: Mapping[str, Shape], steps: int
) -> optax.GradientTransformationExtraArgs:
    """Create the optimizer of the trained parameters.

    It is torch.optim.AdamW with parameter groups. The gradients are clipped by their global norm and go through Adam;
    then weight_decay times the parameter is added, and the sum is multiplied by the part's rate (`learning_rates`) and
    the schedule (`schedule`). As in Hugging Face's Trainer, biases and the scales of norms do not decay; embeddings do,
    including those of distances. Frozen layers of a stack count as zero in the norm and get updates of exactly zero.

    Args:
        settings: The table [optimizer] of the recipe.
        shapes: {path: shape} of all parameters of the model.
        steps: The number of steps of the run.

    Raises:
        InvalidInput: A pattern of `freeze` matches nothing, or nothing is left to train.
    """
    learning = trainable_paths(shapes, settings.freeze)
    rate_of = {path: rate for path, rate in learning_rates(settings, shapes).items() if path in learning}
    return optax.chain(
        _each(lambda path, gradient: jnp.where(_along(rate_of[path], gradient) > 0, gradient, 0)),
        optax.identity() if settings.clip_norm is None else optax.clip_by_global_norm(settings.clip_norm),
        optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon),
        optax.add_decayed_weights(settings.weight_decay, mask={path: has_weight_decay(path) for path in learning}),
        _each(lambda path, update: _along(rate_of[path], update) * update),
        optax.scale_by_learning_rate(schedule(settings, steps)),
    )


def schedule(settings: OptimizerConfig, steps: int) -> Callable[[jax.typing.ArrayLike], Any]:
    """Return the function that maps a step, counted from 0, to the factor of all learning rates.

    The factor rises from 0 to 1 in the first ceil(warmup * steps) steps and then follows `settings.schedule`. "linear"
    and "cosine" reach 0 after the last step.
    """
    warmup = math.ceil(settings.warmup * steps)
    rest = max(steps - warmup, 1)
    after = {
        "linear": optax.linear_schedule(1.0, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(1.0, rest),
        "constant": optax.constant_schedule(1.0),
    }[settings.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), after], [warmup]) if warmup else after


def learning_rates(settings: OptimizerConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Return {path: highest learning rate} of all parameters, float32; 0 for frozen ones.

    A rate is a scalar or, for the layers of an encoder, of shape (layers,). The highest layer, and what stands above
    it, has learning_rate. Each layer below has layer_decay times the rate of the one above. Embeddings and the feature
    projection have the rate of one more layer below. Parameters outside the encoders have head_learning_rate.
    """
    full, decay = settings.learning_rate, settings.layer_decay
    head = full if settings.head_learning_rate is None else settings.head_learning_rate
    found: dict[str, np.ndarray] = {}
    for path in shapes:
        encoder, _, inner = path.partition(".")
        part = inner.partition(".")[0]
        layers = layer_count(shapes, encoder) if encoder in ENCODERS else 0
        if encoder not in ENCODERS:
            rate = np.array(head)
        elif part == "layers":
            rate = full * decay ** np.arange(layers - 1, -1, -1.0)
            rate[: frozen_layers(shapes, settings.freeze, encoder)] = 0
        else:
            rate = np.array(full if part in ABOVE_LAYERS else full * decay**layers)
        found[path] = rate.astype(np.float32)
    learning = trainable_paths(shapes, settings.freeze)
    return {path: rate if path in learning else np.zeros_like(rate) for path, rate in found.items()}


def has_weight_decay(path: str) -> bool:
    """Return whether weight decay acts on a parameter. It does not act on biases and the scales of norms."""
    return path.rpartition(".")[2] not in ("bias", "scale")


def trainable_paths(shapes: Mapping[str, Shape], freeze: Collection[str]) -> frozenset[str]:
    """Return the paths that have anything to train: all except those frozen as a whole.

    Args:
        shapes: {path: shape} of all parameters of the model.
        freeze: Patterns. A pattern is a path, its beginning up to a dot ("text_encoder"), or the lowest layers of an
            encoder ("audio_encoder.layers[:12]").

    Raises:
        InvalidInput: A pattern matches nothing (the message names the nearest path), or nothing is left to train.
    """
    left = set(shapes)
    for pattern in freeze:
        left -= _frozen_whole(shapes, pattern)
    if not left:
        raise InvalidInput(f"optimizer.freeze = {list(freeze)} leaves nothing to train; remove a pattern")
    return frozenset(left)


def frozen_layers(shapes: Mapping[str, Shape], freeze: Collection[str], encoder: str) -> int:
    """Return how many of the lowest layers of an encoder, such as "audio_encoder", are frozen entirely."""
    frozen = 0
    for pattern in freeze:
        lowest = LOWEST.fullmatch(pattern)
        if lowest and lowest["encoder"] == encoder:
            frozen = max(frozen, int(lowest["count"]))
        elif pattern in (encoder, f"{encoder}.layers"):
            frozen = layer_count(shapes, encoder)
    return frozen


def layer_count(shapes: Mapping[str, Shape], encoder: str) -> int:
    """Return the number of layers of an encoder; 0 if the model doesn't have it."""
    return next((shape[0] for path, shape in shapes.items() if path.startswith(f"{encoder}.layers.")), 0)


def _frozen_whole(shapes: Mapping[str, Shape], pattern: str) -> set[str]:
    """Return the paths that a pattern freezes in all their layers."""
    if lowest := LOWEST.fullmatch(pattern):
        encoder, count = lowest["encoder"], int(lowest["count"])
        layers = layer_count(shapes, encoder) if encoder in ENCODERS else 0
        if layers and 1 <= count <= layers:
            return {path for path in shapes if path.startswith(f"{encoder}.layers.") and count == layers}
        if layers:
            raise InvalidInput(
                f"optimizer.freeze has {pattern!r}, and {encoder} has {layers} layers; write [:1] to [:{layers}]"
            )
    elif matched := {path for path in shapes if f"{path}.".startswith(f"{pattern}.")}:
        return matched
    beginnings = {path[: dot.start()] for path in shapes for dot in re.finditer(r"\.|$", path)}
    nearest = get_close_matches(pattern.partition("[")[0], sorted(beginnings), n=1, cutoff=0.0)[0]
    raise InvalidInput(f"optimizer.freeze has {pattern!r}, which is no part of this model; the nearest is {nearest!r}")


def _each(change: Callable[[str, jax.Array], jax.Array]) -> optax.GradientTransformation:
    """Return a stateless transformation of the array of each path."""

    def update(updates: Any, parameters: Any) -> Any:
        """Apply `change` to each array."""
        return {path: change(path, each) for path, each in updates.items()}

    return optax.stateless(update)


def _along(rate: np.ndarray, array: jax.Array) -> jax.Array:
    """Reshape rates, one or one per entry of the leading axis, to broadcast with an array."""
    return jnp.asarray(rate).reshape(rate.shape + (1,) * (array.ndim - rate.ndim))
