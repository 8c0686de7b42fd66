"""An encoder as the programs that run it: one for all of it or, on a CPU, one for its input, some layers, and its end.

A program that scans a stack of layers copies the weights of each on a CPU before it multiplies by them, and widens a
stack of bfloat16 as a whole; one that names the layers one by one copies nothing, but takes long to compile. So there a
few layers are a program, compiled once, and called with the weights of all layers in turn, where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from flax import nnx

from ..models import EmotionModel, unstack

# Layers of a program on a CPU, which asks the system for its memory with each call: one layer a call takes 4 to 10 %
# more time (1,536 frames, float32, bfloat16). The published encoders have 24 and 12.
LAYERS = 4

Kind = Literal["audio", "text"]
Ending = Callable[[EmotionModel, Any], jax.Array]  # of the model and its encoder's states


class Step(NamedTuple):
    """A program by its name: function(parameters, x, mask), x being features, tokens, or what the step before made."""

    name: str
    function: Callable[[Any, jax.Array, jax.Array], jax.Array]
    parameters: Any


def encoder_steps(model: EmotionModel, kind: Kind, ending: Ending, platform: str) -> list[Step]:
    """What runs the model's encoder on that platform, and then makes of its states what `ending` does."""
    name = f"the {kind} encoder"
    weighted = kind == "audio" and model.layer_weights is not None
    if platform != "cpu" or weighted:  # the weights are of the states of all layers

        def whole(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
            return ending(model, _encoder(model, kind)(x, mask, hidden_states=weighted))

        return [_step(name, model, whole)]

    def enter(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
        return _encoder(model, kind).enter(x, mask)

    def leave(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
        return ending(model, _encoder(model, kind).leave(x, mask))

    rest = nnx.merge(*nnx.split(model))  # the same arrays
    for encoder in (rest.audio_encoder, rest.text_encoder):
        if encoder is not None:
            encoder.layers = nnx.data(None)
    return [
        _step(f"{name}'s input", rest, enter),
        *(_step(f"{len(some)} layers of {name}", nnx.List(some), _layers) for some in _some_layers(model, kind)),
        _step(f"{name}'s output", rest, leave),
    ]


def _encoder(model: EmotionModel, kind: Kind) -> Any:
    return model.audio_encoder if kind == "audio" else model.text_encoder


def _some_layers(model: EmotionModel, kind: Kind) -> Iterator[Sequence[Any]]:
    layers = list(unstack(_encoder(model, kind).layers))
    for first in range(0, len(layers), LAYERS):
        yield layers[first : first + LAYERS]


def _layers(layers: Sequence[Any], x: jax.Array, mask: jax.Array) -> jax.Array:
    for layer in layers:
        x = _layer(*nnx.split(layer), x, mask)
    return x


@partial(jax.jit, static_argnums=0)
def _layer(graph: nnx.GraphDef, parameters: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    """As a function of its own it is traced once for all layers of a program."""
    return nnx.merge(graph, parameters)(x, mask)


def _step(name: str, module: nnx.Module, function: Callable[[Any, jax.Array, jax.Array], jax.Array]) -> Step:
    graph, parameters = nnx.split(module)
    return Step(name, partial(_call, graph, function), parameters)


def _call(
    graph: nnx.GraphDef, function: Callable[..., jax.Array], parameters: Any, x: jax.Array, mask: jax.Array
) -> jax.Array:
    """The function of a module as one of its parameters. It holds the structure only."""
    return function(nnx.merge(graph, parameters), x, mask)
